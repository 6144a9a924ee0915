/* The page comes to life: what is stored is shown at once, the model is unpacked, and everything follows what is changed. */

import { array, sigmoid } from "../live/model.js";
import { agreement, at, Live, stored_view } from "./source.js";
import { bytes_of, el, number, probability, shade, to_url } from "./dom.js";
import { draw_tools } from "./draw.js";
import * as image_panels from "./panels_image.js";
import * as text_panels from "./panels_text.js";

const read = (id) => document.getElementById(id)?.textContent;
const PANELS = { ...image_panels, ...text_panels };

/** Fresh children for a node, all but the slider that is being moved and what it stands in. */
function draw_around(node, fresh, active) {
  const before = [...node.childNodes], kept = before.find((child) => child.contains(active)), i = before.indexOf(kept);
  before.forEach((child) => { if (child !== kept) child.remove(); });
  kept.before(...fresh.slice(0, i));
  kept.after(...fresh.slice(i + 1));
  if (kept.tagName !== "LABEL") draw_around(kept, [...fresh[i].childNodes], active);
}

class Page {
  constructor(data) {
    this.data = data;
    this.view = stored_view(data);
    this.view.picture.difference_shown = document.querySelector("#panel-1 img[data-difference]")?.src;
    const middle = Math.floor(this.view.rows / 2) * this.view.columns + Math.floor(this.view.columns / 2);
    this.state = {
      patch: middle, layer: Math.floor(data.config.image.depth / 2), head: 0, label: 0, depth: data.config.image.depth,
      t_prime: data.t_prime, bias: data.bias, learned: { t_prime: data.t_prime, bias: data.bias }, devices: 4, step: 0, playing: false, log_batch: 15,
      side: data.config.image.image_size, config: data.config, precision: data.precision, training: data.training, pairs: data.pairs,
      stored: { labels: data.labels, logits: data.logits, probs: data.probs }, live: null, off: null, logits: data.logits, to_url,
      near: (q, view) => at(this.stored.positions, this.nearest_stored(view.queries[q])),
      wider: (q, view) => at(this.stored.positions_wider, this.nearest_stored(view.queries[q])),
    };
    this.stored = this.view;
    this.act = this.act.bind(this);
    this.seen = new Set();
    this.observer = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
      const number_ = Number(target.id.slice(6));
      if (isIntersecting) this.seen.add(number_); else this.seen.delete(number_);
      if (isIntersecting && this.stale?.has(number_)) this.draw_panel(number_);
    }), { rootMargin: "300px" });
    this.stale = new Set();
    document.querySelectorAll("section.panel").forEach((section) => this.observer.observe(section));
    this.draw();
  }

  nearest_stored(patch) {
    return image_panels.nearest(this.stored, patch);
  }

  /** Something was chosen or moved. */
  act(changes) {
    const start = performance.now(), { toggle, ...rest } = changes;
    Object.assign(this.state, rest);
    if (toggle !== undefined) {
      if (toggle === null) {
        this.live.off.clear();
        this.live.run();
      } else this.live.toggle(toggle);
      this.refresh(true);
    }
    if ("playing" in rest) this.play();
    this.draw(new Set(Object.keys(changes)));
    this.last = performance.now() - start;
    document.getElementById("time").textContent = `; last update ${number(this.last, 0)} ms`;
  }

  play() {
    clearInterval(this.timer);
    if (this.state.playing) this.timer = setInterval(() => this.act({ step: (this.state.step + 1) % this.state.devices }), 900);
  }

  /** What the live model has computed becomes what is shown; what takes longer comes after. */
  refresh(picture = false) {
    if (picture) this.view = this.live.view_image(this.view);
    this.view = this.live.view_texts(this.labels, this.view);
    this.view.gradient = this.view.occlusion = null;
    this.later();
  }

  /** Words left out, padding masked, gradients, grey patches: one by one, whenever the page is idle. */
  later() {
    const turn = (this.turn = (this.turn ?? 0) + 1), current = () => turn === this.turn, pause = () => new Promise((go) => setTimeout(go, 30));
    const work = async () => {
      await new Promise((go) => setTimeout(go, 250));
      for (const label of this.labels) {
        if (!current()) return;
        this.live.slowly(this.live.text(label));
        await pause();
      }
      if (!current()) return;
      this.view.texts = this.live.view_texts(this.labels, this.view).texts;
      this.draw_panel(7);
      const gradients = [];
      for (const label of this.labels) {
        if (!current()) return;
        gradients.push(this.live.off.size ? null : this.live.gradient(label));
        await pause();
      }
      if (this.live.off.size) return;  // gradients are those of the whole model
      const found = await this.live.occlusion(this.labels, this.view.windows, (done, count) => {
        this.state.progress = `${done} of ${count}`;
        if (current() && done % 8 === 0) this.draw_panel(5);
        return current();
      });
      if (!found || !current()) return;
      this.view.gradient = array([gradients.length, gradients[0].length], Float64Array.from(gradients.flatMap((x) => [...x])));
      this.view.occlusion = array([found.length, found[0].length], Float64Array.from(found.flatMap((x) => [...x])));
      this.view.agreement = found.map((row, k) => {
        const sums = new Float64Array(row.length);
        this.view.windows.forEach((w, i) => { sums[w] += gradients[k][i]; });
        return agreement(sums, row);
      });
      this.draw_panel(5);
    };
    work();
  }

  // -- drawing ------------------------------------------------------------------------------------------------------

  /** All that is in sight now, the rest when it comes in sight. */
  draw(changed = null) {
    const t = Math.exp(this.state.t_prime);
    this.state.logits = this.view.cosines.map((s) => t * s + this.state.bias);
    this.draw_hero(changed);
    const only = changed && [...changed].every((name) => ["patch", "layer", "head", "depth", "devices", "step", "playing", "log_batch", "label"].includes(name));
    const touched = { patch: [2, 3, 4, 6], layer: [4], head: [4], depth: [6], devices: [9], step: [9], playing: [9], log_batch: [9], label: [5, 7] };
    const panels = only ? new Set([...changed].flatMap((name) => touched[name])) : new Set(Array.from({ length: 11 }, (_, i) => i + 1));
    for (const panel of panels) {
      if (this.seen.has(panel)) this.draw_panel(panel);
      else this.stale.add(panel);
    }
  }

  draw_panel(panel) {
    this.stale.delete(panel);
    const place = document.querySelector(`#panel-${panel} .view`), active = place.contains(document.activeElement) ? document.activeElement : null;
    const key = active && (active.getAttribute("data-key") ?? active.getAttribute("aria-label")?.split(";")[0].replace(/layer \d+, head \d+|\d+/g, "#")), tag = active?.tagName;
    const open = [...place.querySelectorAll("details")].map((node) => node.open), fresh = PANELS[`panel_${panel}`](this.view, this.state, this.act);
    if (active?.type === "range") draw_around(place, fresh, active);
    else place.replaceChildren(...fresh);
    place.querySelectorAll("details").forEach((node, i) => { node.open = open[i] ?? false; });
    if (!key || active.type === "range") return;
    for (const node of place.querySelectorAll(tag)) {
      const name = node.getAttribute("data-key") ?? node.getAttribute("aria-label")?.split(";")[0].replace(/layer \d+, head \d+|\d+/g, "#");
      if (name === key) return node.focus({ preventScroll: true });
    }
  }

  draw_hero() {
    const { view, state } = this, k = Math.min(state.label, view.labels.length - 1);
    const place = document.querySelector(".hero .look"), H = view.probe.shape[0], mean = new Float64Array(view.rows * view.columns);
    for (let h = 0; h < H; h++) at(view.probe, h).forEach((x, i) => { mean[i] += x / H; });
    const map = el("div", { class: "map light", role: "img", "aria-label": "the picture; light is where the probe looks", style: `aspect-ratio:${view.picture.width}/${view.picture.height}` });
    map.append(el("img", { class: "below", src: view.picture.shown, alt: "" }));
    if (!state.overlay_off) map.append(shade(mean, view.rows, view.columns));
    place.replaceChildren(map);
    document.querySelectorAll(".labels .label").forEach((row, i) => {
      const z = state.logits[i], p = sigmoid(z);
      if (z === undefined) return;
      row.querySelector(".prob").textContent = probability(p);
      row.querySelector(".fill").style.width = `${100 * p}%`;
      row.querySelector(".sum").textContent = `cosine ${number(view.cosines[i], 4)} × ${number(Math.exp(state.t_prime), 1)} ${state.bias < 0 ? "−" : "+"} ${number(Math.abs(state.bias), 1)} = ${number(z, 2)}`;
    });
  }

  // -- the live model -----------------------------------------------------------------------------------------------

  async wake(weights, spiece) {
    this.live = await Live.open(this.data, weights, spiece);
    this.state.live = this.live;
    this.state.off = this.live.off;
    this.labels = [...this.data.labels];
    const side = this.state.side, inside = document.createElement("img");
    inside.src = this.data.picture.exact ? this.data.picture.shown : this.data.picture.resized;
    await inside.decode();
    const [height, width] = this.data.picture.exact ? [inside.naturalHeight, inside.naturalWidth] : [side, side];
    this.live.look(bytes_of(inside, width, height), height, width);
    this.labels.forEach((label) => this.live.text(label));
    const fresh = this.live.view_texts(this.labels, this.live.view_image(this.view)), far = Math.max(...fresh.cosines.map((s, k) => Math.abs(s - this.data.cosines[k])));
    this.off_by = far;
    document.getElementById("proof").textContent = `This page's JavaScript has computed the same cosines as the float64 reference, but for ${far === 0 ? "nothing" : far.toExponential(1)}.`;
    this.view = { ...fresh, gradient: this.view.gradient, occlusion: this.view.occlusion, texts: this.stored.texts };
    document.documentElement.classList.add("has-live");
    this.edit_labels();
    draw_tools(this);
    this.draw();
  }

  /** Labels become fields. */
  edit_labels() {
    const list = document.querySelector(".labels");
    list.replaceChildren(...this.labels.map((label, k) => el("li", { class: "label" },
      el("input", { value: label, "aria-label": `label ${k + 1}`, spellcheck: "false", oninput: (event) => this.relabel(k, event.target.value) }),
      el("span", { class: "prob number" }), el("div", { class: "track" }, el("div", { class: "fill" })), el("span", { class: "sum number" }))));
  }

  relabel(k, label) {
    const start = performance.now();
    this.labels[k] = label;
    this.refresh();
    this.draw();
    this.tell(start);
    if (this.live.text(label).truncated) this.say(`Label ${k + 1} is longer than the ${this.live.tokenizer.seq_len} places that the model reads: its end is ignored.`, true);
    else this.say("");
  }

  /** Another number of labels. */
  relist(labels) {
    this.labels = labels;
    this.edit_labels();
    this.refresh();
    this.draw();
  }

  /** Another picture: RGB bytes. */
  look(bytes, height, width, shown) {
    const start = performance.now();
    this.live.look(bytes, height, width);
    const { resized, naive } = this.live;
    const difference = resized.reduce((most, x, i) => Math.max(most, Math.abs(x - naive[i])), 0);
    this.view = { ...this.view, picture: { height, width, shown, resized: to_url(resized, this.state.side), naive: to_url(naive, this.state.side), difference, live: { resized, naive } } };
    this.refresh(true);
    this.draw();
    this.tell(start);
    this.say("");
  }

  tell(start) {
    this.last = performance.now() - start;
    document.getElementById("time").textContent = `; last update ${number(this.last, 0)} ms`;
  }

  say(text, bad = false) {
    const place = document.getElementById("say");
    place.textContent = text;
    place.className = text ? `say ${bad ? "bad" : ""}` : "";
  }
}

document.documentElement.classList.add("js");
const page = new Page(JSON.parse(read("npsiglip-data")));
globalThis.npsiglip = page;
const weights = read("npsiglip-weights");
if (weights) {
  page.awake = page.wake(weights, read("npsiglip-spiece")).catch((error) => {
    page.say(`The live model could not be started (${error.message}); what is stored is shown.`, true);
  });
}
