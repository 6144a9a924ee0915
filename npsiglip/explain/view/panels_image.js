/* Panels 1 to 6: the image tower. Each takes what is shown (view), what is chosen (state) and what changes it (act). */

import { sigmoid } from "../live/model.js";
import { chart, choice, el, figure, heat, number, patch_map, probability, slider, table } from "./dom.js";
import { at, reach } from "./source.js";

const controls = (...children) => el("div", { class: "tools controls" }, ...children);

/** The place in view.queries of the patch that is nearest to one. */
export function nearest(view, patch) {
  const far = (q) => Math.hypot(Math.floor(q / view.columns) - Math.floor(patch / view.columns), (q % view.columns) - (patch % view.columns));
  return view.queries.reduce((best, q, i) => (far(q) < far(view.queries[best]) ? i : best), 0);
}

/** A map that patches are chosen in. */
function chooser(values, view, state, act, name, options = {}) {
  const shown = view.queries[nearest(view, state.patch)];
  const choose = (patch, step = null) => {
    let next = patch;
    if (step && view.queries.length < view.rows * view.columns) {  // a key goes to the next patch that is stored
      const stride = view.queries[1] - view.queries[0];
      next = shown + step[0] * stride * view.columns + step[1] * stride;
      if (next < 0 || next >= view.rows * view.columns) return;
    }
    act({ patch: view.queries[nearest(view, next)] });
  };
  return patch_map(values, view, { name: `${name}; click or arrow keys choose a patch`, chosen: shown, choose, ...options });
}

const place = (view, patch) => `row ${Math.floor(patch / view.columns) + 1}, column ${(patch % view.columns) + 1}`;

/** One patch of the picture alone, enlarged. */
function one_patch(view, patch) {
  const { rows, columns } = view, node = el("div", { class: "map plain small", role: "img", "aria-label": `the patch in ${place(view, patch)}` });
  const style = `width:${100 * columns}%;height:${100 * rows}%;left:${-100 * (patch % columns)}%;top:${-100 * Math.floor(patch / columns)}%`;
  node.append(el("img", { src: view.picture.resized, alt: "", style }));
  return node;
}

export function panel_1(view, state) {
  const side = state.side, plain = (src, name) => {
    const node = el("div", { class: "map plain middle", role: "img", "aria-label": name });
    node.append(el("img", { src, alt: "" }));
    return node;
  };
  return [
    el("div", { class: "row" },
      figure(plain(view.picture.resized, "the picture, resized"), `Pillow's bicubic: ${view.picture.height} × ${view.picture.width} pixels to ${side} × ${side}, each input counted. This goes in.`),
      figure(plain(view.picture.naive, "the picture, resized naively"), "Naive: four pixels around each centre, the others skipped."),
      figure(plain(difference(state, view), "their difference, eight times"), `Their difference, × 8; at most ${view.picture.difference} of 255.`)),
    el("p", { class: "soft" }, `Then each byte becomes (byte / 255 − 0.5) / 0.5: black is −1, grey 0, white 1.${view.picture.live ? " This was done here, in JavaScript, by the same whole numbers as Pillow's." : ""}`),
  ];
}

/** |resized - naive| x 8, as the URL of a picture; made once for each picture. */
function difference(state, view) {
  if (view.picture.live) {
    view.picture.difference_shown ??= state.to_url(view.picture.live.resized.map((x, i) => Math.min(255, 8 * Math.abs(x - view.picture.live.naive[i]))), state.side);
    return view.picture.difference_shown;
  }
  return view.picture.difference_shown;
}

export function panel_2(view, state, act) {
  const L = view.rows * view.columns, { patch_size, width } = state.config.image, norms = view.patch_norms.data;
  const strongest = norms.indexOf(Math.max(...norms)), patch = view.queries[nearest(view, state.patch)];
  return [
    el("div", { class: "row" },
      figure(chooser(norms, view, state, act, "length of each patch's vector"),
        `${L} patches of ${patch_size} × ${patch_size}, and how long their vectors are. Chosen: ${place(view, patch)}, length ${number(norms[patch], 2)}; longest: ${place(view, strongest)}, ${number(norms[strongest], 2)}.`),
      el("div", { class: "beside" },
        figure(el("img", { class: "sheet", src: view.filters.sheet, alt: `learned filters` }),
          `Of ${width} filters the ${view.filters.channels.length} that tell these patches apart most, ${patch_size} × ${patch_size} × 3 numbers each; grey is 0.`),
        el("div", { class: "thumbs" }, figure(one_patch(view, patch), `chosen: length ${number(norms[patch])}`), figure(one_patch(view, strongest), `longest: ${number(norms[strongest])}`)))),
    el("p", { class: "soft" }, `Each patch, ${patch_size * patch_size * 3} numbers, times each filter, plus a bias: [${L}, ${patch_size * patch_size * 3}] × [${patch_size * patch_size * 3}, ${width}] → [${L}, ${width}].`),
  ];
}

export function panel_3(view, state, act) {
  const q = nearest(view, state.patch), grid = view.wider_grid, wider = state.wider(q, view);
  const similar = Array.from(state.near(q, view), (x) => Math.max(x, 0)), finer = Array.from(wider, (x) => Math.max(x, 0));
  const same_row = [], same_column = [], patch = view.queries[q];
  state.near(q, view).forEach((x, i) => {
    if (i === patch) return;
    if (Math.floor(i / view.columns) === Math.floor(patch / view.columns)) same_row.push(x);
    if (i % view.columns === patch % view.columns) same_column.push(x);
  });
  const mean = (x) => x.reduce((sum, v) => sum + v, 0) / (x.length || 1);
  return [
    el("div", { class: "row" },
      figure(chooser(similar, view, state, act, "similarity of positions"), `Cosine of this patch's position (${place(view, patch)}) with all others. Its row: ${number(mean(same_row))} on average, its column: ${number(mean(same_column))}.`),
      figure(patch_map(finer, view, { name: "similarity on the finer grid", rows: grid, columns: grid }), `The same with positions interpolated (bicubic) to ${grid} × ${grid}: for a larger picture.`)),
  ];
}

export function panel_4(view, state, act) {
  const [depth, H] = view.attention.shape, L = view.rows * view.columns, q = nearest(view, state.patch), { layer, head } = state;
  const row = (h) => at(view.attention, layer, h, q), off = (h) => state.off?.has(`${layer}.${h}`);
  const thumbs = el("div", { class: "thumbs", role: "group", "aria-label": "heads of this layer" }, ...Array.from({ length: H }, (_, h) => {
    const button = el("button", { type: "button", class: "map small", "aria-pressed": String(h === head), "aria-label": `head ${h + 1}${off(h) ? ", switched off" : ""}`, "data-key": `head-${h}`, onclick: () => act({ head: h }) });
    button.append(el("img", { class: "below", src: view.picture.resized, alt: "" }), heat(row(h), view.rows, view.columns));
    return el("figure", { class: `${h === head ? "on" : ""} ${off(h) ? "off" : ""}` }, button,
      el("figcaption", {}, `head ${h + 1}`, el("br"), `entropy ${number(at(view.entropy, layer, h)[0])}`, el("br"), `distance ${number(at(view.distance, layer, h)[0], 1)}`));
  }));
  const values = row(head), best = values.indexOf(Math.max(...values)), alike = reach(new Float64Array(L * L).fill(1 / L), view.rows, view.columns);
  const { data } = view.distance, nearest_head = data.indexOf(Math.min(...data)), whole = state.live?.whole_cosines(view.labels);
  const pair = (z) => `${probability(sigmoid(z))} (logit ${number(z)})`;
  return [
    controls(
      slider("layer", layer + 1, 1, depth, 1, (x) => `${x} of ${depth}`, (x) => act({ layer: x - 1 })),
      choice("head", Array.from({ length: H }, (_, h) => `${h + 1}`), head, (h) => act({ head: h })),
      state.live && el("button", { type: "button", "aria-pressed": String(off(head)), "data-key": "switch", onclick: () => act({ toggle: `${layer}.${head}` }) }, off(head) ? "Switch this head on" : "Switch this head off"),
      state.off?.size ? el("button", { type: "button", "data-key": "all-on", onclick: () => act({ toggle: null }) }, `All on (${state.off.size} off)`) : null),
    el("div", { class: "row" },
      figure(chooser(values, view, state, act, `attention of layer ${layer + 1}, head ${head + 1}`), `Layer ${layer + 1}, head ${head + 1}, from ${place(view, view.queries[q])}: most to ${place(view, best)}, ${number(values[best])} of 1.`),
      thumbs),
    el("p", { class: "soft" }, `Least distance of all: layer ${Math.floor(nearest_head / H) + 1}, head ${(nearest_head % H) + 1}, ${number(data[nearest_head], 1)} patches. Looking everywhere alike would be ${number(alike, 1)}; the eight neighbours alone, 1.0 to 1.4.`),
    state.live && table(["label", "all heads on", state.off.size ? `${state.off.size} off` : "none off yet"], view.labels.map((label, k) => [
      label, whole ? pair(Math.exp(state.t_prime) * whole[k] + state.bias) : "not computed", pair(state.logits[k])])),
    el("details", {}, el("summary", {}, "All heads in numbers"), table(["layer", ...Array.from({ length: H }, (_, h) => `head ${h + 1}`)],
      Array.from({ length: depth }, (_, l) => [`${l + 1}: entropy / distance`, ...Array.from({ length: H }, (_, h) => `${number(at(view.entropy, l, h)[0])} / ${number(at(view.distance, l, h)[0], 1)}`)]))),
  ];
}

export function panel_5(view, state, act) {
  const H = view.probe.shape[0], L = view.rows * view.columns, k = Math.min(state.label, view.labels.length - 1), ready = view.gradient && view.occlusion;
  const off = (h) => state.off?.has(`map.${h}`);
  const maps = Array.from({ length: H }, (_, h) => {
    const name = `probe, head ${h + 1}${off(h) ? ", switched off" : ""}`;
    const node = state.live ? el("button", { type: "button", class: "map small", "aria-pressed": String(!off(h)), "aria-label": `${name}: switch`, "data-key": `probe-${h}`, onclick: () => act({ toggle: `map.${h}` }) }) : el("div", { class: "map small", role: "img", "aria-label": name });
    node.append(el("img", { class: "below", src: view.picture.resized, alt: "" }), heat(at(view.probe, h), view.rows, view.columns));
    return el("figure", { class: off(h) ? "off" : "" }, node, el("figcaption", {}, `head ${h + 1}`, el("br"), `entropy ${number(view.probe_entropy.data[h])}`));
  });
  const nodes = [el("div", {}, el("h3", {}, `Where the probe looks${state.live ? " (a click switches a head off)" : ""}`), el("div", { class: "thumbs" }, ...maps))];
  nodes.push(controls(choice("label", view.labels, k, (label) => act({ label }))));
  if (!ready) {
    nodes.push(el("p", { class: "say", role: "status" }, state.off?.size ? "What a label owes to each patch is told of the whole model: switch all heads on." : `Making one patch after the other grey ... ${state.progress ?? ""}`));
    return nodes;
  }
  const gradient = at(view.gradient, k), windows = view.windows, occlusion = windows.map((w) => at(view.occlusion, k)[w]);
  const count = new Set(windows).size, r = view.agreement[k], agrees = r >= 0.7;
  const sum = gradient.reduce((total, x) => total + x, 0);
  nodes.push(el("div", { class: "row" },
    figure(patch_map(gradient, view, { name: "what the logit owes to each patch, by gradients", signed: true, small: "middle" }), `Gradient × pixel: what the logit would lose with the patch grey, were the model linear. Green helps, red harms; largest ${number(Math.max(...Array.from(gradient, Math.abs)), 2)}, sum ${number(sum, 2)}.`),
    figure(patch_map(occlusion, view, { name: "what the logit loses when a patch is grey", signed: true, small: "middle" }), `Made grey${count < L ? `, in ${count} squares of several patches,` : ""} and computed anew: what the logit really loses. Largest ${number(Math.max(...occlusion.map(Math.abs)), 2)}.`)));
  nodes.push(el("p", { class: `say ${agrees ? "good" : "bad"}` }, agrees
    ? `The two agree here: their correlation is ${number(r)}.`
    : `Warning: the two disagree here, their correlation is ${number(r)}. A gradient holds for small changes, and a whole grey patch is none. Do not explain a decision by one of them alone.`));
  return nodes;
}

export function panel_6(view, state, act) {
  const depth = view.norms.shape[0] - 1, q = nearest(view, state.patch), d = Math.min(state.depth, depth);
  const lines = [["mean", (x) => x.reduce((s, v) => s + v, 0) / x.length, "a"], ["largest", (x) => Math.max(...x), "b"]];
  const worst = view.outliers[d], similar = at(view.stream_similarity, d, q), patch = view.queries[q];
  const others = Array.from(similar.keys()).filter((i) => i !== patch).sort((i, j) => similar[j] - similar[i]);
  const told = others.length ? ` Most like ${place(view, others[0])}: ${number(similar[others[0]])}; least like ${place(view, others.at(-1))}: ${number(similar[others.at(-1)])}.` : "";
  return [
    controls(slider("after block", d, 0, depth, 1, (x) => (x ? `${x} of ${depth}` : "none: embedding"), (depth_) => act({ depth: depth_ }))),
    el("div", { class: "row" },
      figure(chooser(Array.from(similar, (x) => Math.max(x, 0)), view, state, act, "similarity in the residual stream"), `Cosine of the chosen patch (${place(view, patch)}) with all others after ${d} block${d === 1 ? "" : "s"}.${told} All pairs: ${number(view.mean_similarity.data[d])} on average.`),
      figure(chart(lines.map(([name, f, colour]) => ({ name, colour, values: Array.from({ length: depth + 1 }, (_, i) => f(Array.from(at(view.norms, i)))) })), { names: Array.from({ length: depth + 1 }, (_, i) => (depth > 14 && i % 4 ? "" : String(i))), label: "norm of the tokens by depth" }), "Norm of the tokens by depth.")),
    table(["channel", ...worst.channels.map(String)], [["times the median channel", ...worst.times.map((x) => number(x, 1))]]),
  ];
}
