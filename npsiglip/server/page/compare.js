// The same picture, labels and template for several models: each model has a table of its own, with the columns it has.

import { ask, element, latest, percent } from "./api.js";
import { linesOf } from "./classify.js";
import { pad } from "./pad.js";

const by = (id) => document.getElementById(id);
const shares = ["sigmoid", "softmax"];
const shown = (name, value) => shares.includes(name) ? percent(value) : name === "rank" ? String(value) : value.toFixed(4);
const split = (text) => text.split("|").map((part) => part.trim());

function labelSets() {
  const rows = linesOf(by("compare-labels").value).map(split);
  const count = Math.max(...rows.map((row) => row.length), 0);
  if (count < 2) return rows.map((row) => row[0]);
  const names = split(by("languages").value);
  return Object.fromEntries([...Array(count).keys()].map((i) => [names[i] || `language ${i + 1}`, rows.map((row) => row[i]).filter((l) => l)]));
}

function table(caption, heads, rows) {
  const made = element("table", {},
    element("caption", { className: "visually-hidden", textContent: caption }),
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })))),
    element("tbody", {}, ...rows.map(({ best, cells }) => element("tr", { className: best ? "best" : "" },
      element("th", { scope: "row", textContent: cells[0] }), ...cells.slice(1).map((text) => element("td", { textContent: text }))))));
  return element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, made);
}

function modelTable(model, language) {
  const columns = ["cosine", "logit", "sigmoid", "softmax", "rank"].filter((name) => name in model.scores[0]);
  const rows = [...model.scores].sort((a, b) => a.rank - b.rank);
  return [
    element("h4", { textContent: `${model.model} · ${model.kind}` }),
    element("p", { className: "meaning", textContent: model.meaning }),
    table(`${model.model}${language ? `, ${language}` : ""}`, ["label", ...columns],
      rows.map((row) => ({ best: row.rank === 1, cells: [row.label, ...columns.map((name) => shown(name, row[name]))] }))),
  ];
}

const agreement = ({ first, second, same_best, correlation }) => element("li", {
  textContent: `${first} and ${second}: ${same_best ? "the same best label" : "another best label"}`
    + (correlation === null ? "" : `, rank correlation ${correlation.toFixed(2)}`),
});

// The languages of one model beside each other: its own kind of score, and the rank.
function languageTable(sets, model) {
  const each = sets.map((set) => set.models.find((one) => one.model === model));
  const kind = each[0].kind === "cosine" ? "cosine" : each[0].kind;
  const rows = each[0].scores.map((score, i) => ({
    best: score.rank === 1,
    cells: [score.label, ...each.map((one) => `${shown(kind, one.scores[i][kind])}  (${one.scores[i].rank})`)],
  }));
  return table(`${model}, languages`, [`${kind} (rank)`, ...sets.map((set) => set.name)], rows);
}

function draw({ sets, languages }) {
  const parts = [];
  for (const set of sets) {
    if (set.name) parts.push(element("h3", { textContent: set.name }));
    for (const model of set.models) parts.push(...modelTable(model, set.name));
    if (set.agreement.length) parts.push(element("h4", { textContent: "Agreement of models" }), element("ul", {}, ...set.agreement.map(agreement)));
  }
  if (languages.length) parts.push(element("h3", { textContent: "Languages side by side" }));
  for (const { model, agreement: said } of languages) {
    parts.push(element("h4", { textContent: model }), languageTable(sets, model), element("ul", {}, ...said.map(agreement)));
  }
  by("comparison").replaceChildren(...parts);
  by("compare-said").textContent = `${sets[0].models.length} models compared`;
}

const run = latest(async (signal) => {
  const labels = labelSets();
  const models = [...by("compare-models").querySelectorAll("input:checked")].map((box) => box.value);
  const some = Array.isArray(labels) ? labels.length : Object.keys(labels).length;
  const hint = !pad.source ? "Give a picture." : !some ? "Type a label." : !models.length ? "Choose a model." : "";
  by("compare-hint").hidden = !hint;
  by("compare-hint").textContent = hint;
  if (hint) return by("comparison").replaceChildren();
  draw(await ask("/v1/compare", { image: pad.source, labels, template: by("compare-template").value, models }, signal));
}, 300);

export const compare = {
  start() {
    for (const id of ["compare-labels", "languages", "compare-template"]) by(id).addEventListener("input", run);
    by("compare-models").addEventListener("change", run);
    pad.onChange(() => { if (!by("panel-compare").hidden) run(); });
  },
  models(ids) {
    const boxes = ids.map((id) => element("label", { className: "check" }, element("input", { type: "checkbox", value: id, checked: true }), ` ${id}`));
    by("compare-models").replaceChildren(element("legend", { textContent: "Models" }), ...boxes);
  },
  run,
};
