// One picture, labels, and how probable each is, while one types.

import { ask, element, latest, percent } from "./api.js";
import { pad } from "./pad.js";

const by = (id) => document.getElementById(id);
export const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

function item({ label, score }) {
  const bar = element("span");
  bar.style.width = `${100 * score}%`;
  return element("li", {},
    element("div", { className: "line" }, element("span", { className: "name", textContent: label }),
      element("span", { className: "value", textContent: percent(score) })),
    element("div", { className: "track", ariaHidden: "true" }, bar));
}

const run = latest(async (signal) => {
  const labels = linesOf(by("labels").value);
  const hint = !pad.source ? "Give a picture, and what could be in it." : !labels.length ? "Type a label." : "";
  by("classify-hint").hidden = !hint;
  by("classify-hint").textContent = hint;
  if (hint) return by("scores").replaceChildren();
  by("scores").classList.add("stale");
  try {
    const answer = await ask("/v1/classify", {
      model: by("model").value, input: [{ image: pad.source }], labels, template: by("template").value,
    }, signal);
    const scores = answer.data[0].predictions;
    by("scores").replaceChildren(...scores.map(item));
    by("classify-said").textContent = `Best: ${scores[0].label}, ${percent(scores[0].score)}`;
  } finally {
    by("scores").classList.remove("stale");
  }
});

export const classify = {
  start() {
    for (const id of ["labels", "template", "model"]) by(id).addEventListener("input", run);
    pad.onChange(() => { if (!by("panel-classify").hidden) run(); });
  },
  run,
};
