/* Panels 7 to 11: texts, probabilities, the loss, fewer bits, training. */

import { best_bias, cell_loss, sigmoid_loss, softmax_loss } from "../live/loss.js";
import { array, map, sigmoid, softmax } from "../live/model.js";
import { chart, choice, el, figure, heat, number, patch_map, probability, slider, table } from "./dom.js";

const controls = (...children) => el("div", { class: "tools controls" }, ...children);

/** Bars to both sides of zero. */
function bars(entries) {
  const most = Math.max(...entries.map(([, x]) => Math.abs(x)), 1e-9);
  return el("div", { class: "bars" }, ...entries.flatMap(([name, x]) => {
    const width = (Math.abs(x) / most) * 50;
    return [el("span", {}, name), el("span", { class: "bar" }, el("i", { style: `${x < 0 ? `right:50%;background:var(--no)` : `left:50%;background:var(--yes)`};width:${width}%` })), el("span", { class: "number" }, number(x))];
  }));
}

export function panel_7(view, state, act) {
  const k = Math.min(state.label, view.labels.length - 1), text = view.texts[k], logit = state.logits[k];
  const shown = [...text.pieces.slice(0, text.length - 1), "</s>"];
  const nodes = [
    controls(choice("label", view.labels, k, (label) => act({ label }))),
    el("p", {}, "Canonical text: ", el("code", {}, text.canonical || "(empty)")),
    el("div", { class: "pieces" }, ...text.ids.map((id, i) => el("span", { class: `piece ${i >= text.length ? "pad" : ""}` }, i < text.length ? shown[i] : "pad", el("small", {}, String(id))))),
  ];
  if (text.truncated) nodes.push(el("p", { class: "say bad", role: "status" }, `The label is longer than the ${text.ids.length} places that the model reads: its end is ignored.`));
  if (text.masked_logit === undefined) nodes.push(el("p", { class: "soft", role: "status" }, "Words are being left out ..."));
  else
    nodes.push(
      el("p", { class: `say ${Math.abs(text.masked_logit - logit) > 1 ? "bad" : "good"}` }, `With padding switched off (masked) the vector moves: the cosine of the two vectors is ${number(text.masked_cosine, 3)}, and the logit goes from ${number(logit)} to ${number(text.masked_logit)}. SigLIP was trained with padding that is seen: mask it, and it is another model.`),
      el("div", {}, el("h3", {}, "What each word adds to the logit (the label with it, less the label without it)"), text.words.length ? bars(text.words.map(({ word, change }) => [word, change])) : el("p", { class: "soft" }, "A label of one word: nothing is left without it.")));
  return nodes;
}

export function panel_8(view, state, act) {
  const t = Math.exp(state.t_prime), { bias } = state, z = view.cosines.map((s) => t * s + bias), share = softmax(Float64Array.from(z));
  return [
    controls(
      slider("t", t, 1, 200, 0.1, (x) => number(x, 1), (x) => act({ t_prime: Math.log(x) })),
      slider("bias", bias, -30, 10, 0.1, (x) => number(x, 1), (x) => act({ bias: x })),
      el("button", { type: "button", "data-key": "reset", onclick: () => act({ t_prime: state.learned.t_prime, bias: state.learned.bias }) }, "As learned")),
    table(["label", "cosine", "× t", "+ bias = logit", "sigmoid", "softmax"], view.labels.map((label, k) => [
      label, number(view.cosines[k], 4), number(t * view.cosines[k], 2), number(z[k], 2), el("b", {}, probability(sigmoid(z[k]))), probability(share[k])])),
    curve(z, view.labels),
    el("p", { class: "soft" }, `The sigmoids add up to ${probability(z.reduce((sum, x) => sum + sigmoid(x), 0))}: each label is a question of its own. The softmax adds up to 1 whatever the labels are: somebody must win.`),
  ];
}

/** The sigmoid, and where the labels are on it. */
function curve(z, labels) {
  const far = Math.max(8, ...z.map(Math.abs)) * 1.08, X = (x) => 20 + ((x + far) / (2 * far)) * 520, Y = (p) => 120 - 100 * p;
  const line = Array.from({ length: 161 }, (_, i) => -far + (i / 80) * far).map((x) => `${X(x).toFixed(1)},${Y(sigmoid(x)).toFixed(1)}`).join(" ");
  const dots = z.map((x, k) => `<circle cx="${X(x).toFixed(1)}" cy="${Y(sigmoid(x)).toFixed(1)}" r="6" fill="var(--heat)" stroke="var(--card)" stroke-width="2"/><text x="${X(x).toFixed(1)}" y="${(Y(sigmoid(x)) - 10).toFixed(1)}" text-anchor="middle">${k + 1}</text>`).join("");
  const node = el("figure", { class: "wide", tabindex: "0", role: "group", "aria-label": "the sigmoid" });
  node.innerHTML = `<svg viewBox="0 0 560 142" role="img" aria-label="logits of the labels on the sigmoid"><line x1="${X(0)}" x2="${X(0)}" y1="14" y2="122" stroke="var(--line)"/><polyline points="${line}" fill="none" stroke="var(--accent)" stroke-width="2.5"/>${dots}<text x="${X(0)}" y="138" text-anchor="middle">logit 0: probability 0.5</text><text x="20" y="138">${number(-far, 0)}</text><text x="540" y="138" text-anchor="end">${number(far, 0)}</text></svg>`;
  return node;
}

export function panel_9(view, state, act) {
  const { pairs } = state, B = pairs.captions.length, t = Math.exp(state.t_prime), devices = state.devices;
  const z = map(array([B, B], Float64Array.from(pairs.cosines.flat())), (s) => t * s + state.bias), b = B / devices;
  const positives = Array.from({ length: B }, (_, i) => cell_loss(z.data[i * B + i], true, B)).reduce((sum, x) => sum + x, 0), total = sigmoid_loss(z);
  const grid = el("div", { class: "cells", style: `grid-template-columns: minmax(3.6rem,1.5fr) repeat(${B}, minmax(0,1fr))` }, el("span"),
    ...pairs.captions.map((caption, j) => el("span", { class: "cap", style: "text-align:center;padding:0", title: caption }, `text ${j + 1}`)));
  for (let i = 0; i < B; i++) {
    grid.append(el("span", { class: "cap" }, el("img", { src: pairs.pictures[i], alt: `picture ${i + 1}: ${pairs.captions[i]}` })));
    for (let j = 0; j < B; j++) {
      const loss = cell_loss(z.data[i * B + j], i === j, B), strong = Math.min(1, Math.sqrt(loss * B) / 2.2);
      const device = Math.floor(i / b), now = (device + state.step) % devices === Math.floor(j / b);
      grid.append(el("span", { class: `cell ${i === j ? "match" : ""} ${devices > 1 && now ? "here" : ""}`, style: `background: color-mix(in srgb, var(--no) ${Math.round(55 * strong)}%, var(--box))`, title: `picture ${i + 1}, text ${j + 1}: logit ${number(z.data[i * B + j])}, loss ${loss.toExponential(1)}` }, number(z.data[i * B + j], 0)));
    }
  }
  const log_batch = state.log_batch, batch = 2 ** log_batch;
  return [
    controls(
      slider("t", t, 1, 200, 0.1, (x) => number(x, 1), (x) => act({ t_prime: Math.log(x) })),
      slider("bias", state.bias, -30, 10, 0.1, (x) => number(x, 1), (x) => act({ bias: x })),
      el("button", { type: "button", "data-key": "reset", onclick: () => act({ t_prime: state.learned.t_prime, bias: state.learned.bias }) }, "As learned")),
    grid,
    el("p", { class: "soft" }, ...pairs.captions.flatMap((caption, j) => [el("b", {}, `${j + 1} `), `${caption}${j < B - 1 ? " · " : ""}`])),
    el("p", { class: "say" }, `Loss ${probability(total)}: ${probability(positives)} from the ${B} matches (green outline), ${probability(Math.max(total - positives, 0))} from the ${B * B - B} others. CLIP's softmax loss of the same logits: ${probability(softmax_loss(z))}; the bias does not change it.`),
    el("div", {}, el("h3", {}, "Round the ring"),
      controls(choice("devices", ["1", "2", "4", "8"], [1, 2, 4, 8].indexOf(devices), (i) => act({ devices: [1, 2, 4, 8][i], step: 0 })),
        el("button", { type: "button", "data-key": "step", onclick: () => act({ step: (state.step + 1) % devices }) }, "Pass the texts on"),
        el("button", { type: "button", "data-key": "play", "aria-pressed": String(state.playing), onclick: () => act({ playing: !state.playing }) }, state.playing ? "Stop" : "Play")),
      el("p", { class: "soft" }, devices === 1 ? "One device holds all 8 × 8 logits." : `Each of ${devices} devices keeps its ${b} pictures. Step ${state.step + 1} of ${devices}: the blocks of ${b} × ${b} logits with a blue frame are computed, ${b * b * devices} of 64; then every device passes its texts to its neighbour.`)),
    el("div", {}, el("h3", {}, "The share of positives"),
      controls(slider("batch", log_batch, 1, 20, 1, (x) => (2 ** x).toLocaleString("en"), (x) => act({ log_batch: x }))),
      el("p", { class: "soft" }, `Of ${(batch * batch).toLocaleString("en")} pairs one in ${batch.toLocaleString("en")} matches. The bias of least loss before anything is learned: −log(N − 1) = ${number(best_bias(batch), 2)}. At bias 0 the loss begins at ${number(batch * Math.LN2, 1)}, at that bias near ${number(Math.log(batch) + 1, 1)}.`)),
  ];
}

export function panel_10(view, state) {
  const { taps, errors, probs, logits } = state.precision, names = taps.map((tap) => (tap.includes("blocks") ? String(Number(tap.split(".")[2]) + 1) : { "image.embed": "embed", "image.final_ln": "LN", "image.pooled": "pool", zimg: "zimg", ztxt: "ztxt" }[tap]));
  const colours = { float32: "c", bfloat16: "a", int8: "b" }, blocks = taps.length - 5;
  const few = names.map((name, i) => (taps.length > 14 && i > 0 && i <= blocks && i % 3 ? "" : name));
  const { stored } = state;
  return [
    figure(chart(Object.entries(errors).map(([name, values]) => ({ name, values, colour: colours[name] })), { log: true, names: few, width: 600, label: "relative error by layer" }), "Relative error |x − float64| / |float64| after each block, of the picture that the page was made with. Logarithmic."),
    table(["logit", "float64", ...Object.keys(errors)], stored.labels.map((label, k) => [label, number(stored.logits[k], 4), ...Object.keys(errors).map((name) => number(logits[name][k], 4))])),
    table(["probability", "float64", ...Object.keys(errors)], stored.labels.map((label, k) => [label, probability(stored.probs[k]), ...Object.keys(errors).map((name) => probability(probs[name][k]))])),
  ];
}

export function panel_11(view, state) {
  const { about, loss = [], accuracy = {}, pictures = [], checkpoints = [] } = state.training ?? {};
  const nodes = [], colours = ["c", "b", "a"];
  if (about) nodes.push(el("p", { class: "soft" }, about));
  if (loss.length) nodes.push(figure(chart([{ name: "loss", values: loss.map(([, x]) => x), x: loss.map(([step]) => step), colour: "a" }], { label: "loss by step" }), `Loss by step, ${loss.at(-1)[0].toLocaleString("en")} in all.`));
  const measured = Object.entries(accuracy).filter(([, points]) => points.length > 1), end = Math.max(...measured.map(([, points]) => points.at(-1)[0]));
  const lines = measured.filter(([, points]) => points.at(-1)[0] === end).slice(0, 3); // three colours; not what only an earlier run measured
  if (lines.length) nodes.push(figure(chart(lines.map(([name, points], i) => ({ name: name.replace("_", " "), values: points.map(([, x]) => 100 * x), x: points.map(([step]) => step), colour: colours[i] })), { label: "accuracy by step", height: 170 }), `Zero-shot accuracy, %${lines.some(([name]) => name === "held_out") ? ", of combinations seen in training and of those held out" : ""}.`));
  for (const [p, { picture, caption }] of pictures.entries()) {
    const side = Math.round(Math.sqrt(checkpoints[0]?.probes[p].length ?? 1)), shown = { picture: { resized: picture }, rows: side, columns: side };
    nodes.push(el("div", {}, caption ? el("h3", {}, caption) : null, el("div", { class: "thumbs" }, ...checkpoints.map(({ step, probes }) =>
      el("figure", {}, patch_map(probes[p], shown, { name: `where the probe looks at step ${step}`, small: "small", top: Math.max(0.25, ...probes[p]) }), el("figcaption", {}, `step ${step.toLocaleString("en")}`))))));
  }
  if (!nodes.length) nodes.push(el("p", {}, "No training was given: --run FOLDER and --checkpoint FOLDER show one."));
  return nodes;
}
