/* What the panels show, in one form: as the page has stored it, or as the live model computes it. */

import { logit_by_patches, patch_shares } from "../live/backward.js";
import { quicken } from "../live/fast.js";
import { array, block_name, blocks, cosines, extract_patches, image_embed, image_tower, keep, l2_normalize, pool, text_tower } from "../live/model.js";
import { naive_resize, resize, to_pixels, value_table } from "../live/resize.js";
import { canonicalize, Tokenizer } from "../live/tokenizer.js";
import { from_base64, gunzip, unpack } from "../live/weights.js";

/** An array of the page -> { shape, data }. */
export function restore(entry) {
  const bytes = from_base64(entry.data);
  if (entry.kind === "f4") return array(entry.shape, Float64Array.from(new Float32Array(bytes.buffer)));
  const top = new Float32Array(from_base64(entry.top).buffer), row = entry.shape.at(-1);
  return array(entry.shape, Float64Array.from(bytes, (byte, i) => (byte / 255) * top[Math.floor(i / row)]));
}

/** Numbers [i, j, ...] of an array: what is left of its axes, flat. */
export function at(x, ...index) {
  let start = 0, length = x.data.length;
  index.forEach((i, axis) => { length /= x.shape[axis]; start += i * length; });
  return x.data.subarray(start, start + length);
}

/** As it was stored. */
export function stored_view(data) {
  const view = { ...data.image, ...data.shares };
  for (const [name, entry] of Object.entries(data.arrays)) view[name] = restore(entry);
  view.stream_similarity.data = view.stream_similarity.data.map((x) => 2 * x - 1);
  for (const name of ["rows", "columns", "queries", "picture", "filters", "texts", "cosines", "labels"]) view[name] = data[name];
  return view;
}

const mean = (x) => x.reduce((sum, value) => sum + value, 0) / x.length;

/** Entropy of attention as a share of the most, mean of queries: [Lq, L] flat. */
export function entropy(probs, length) {
  let sum = 0;
  for (const p of probs) if (p > 0) sum -= p * Math.log(p);
  return sum / Math.log(Math.max(length, 2)) / (probs.length / length);
}

/** How far attention looks on average, in patches: [L, L] flat. */
export function reach(probs, rows, columns) {
  const L = rows * columns;
  let sum = 0;
  for (let i = 0; i < L; i++)
    for (let j = 0; j < L; j++) {
      const down = Math.floor(i / columns) - Math.floor(j / columns), across = (i % columns) - (j % columns);
      sum += probs[i * L + j] * Math.sqrt(down * down + across * across);
    }
  return sum / L;
}

/** Correlation of two rows. */
export function agreement(x, y) {
  const mx = mean(x), my = mean(y);
  let xy = 0, xx = 0, yy = 0;
  x.forEach((value, i) => { xy += (value - mx) * (y[i] - my); xx += (value - mx) ** 2; yy += (y[i] - my) ** 2; });
  return xx * yy > 0 ? xy / Math.sqrt(xx * yy) : 0;
}

const length_of = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));

/** The five channels of a stream [L, D] that are largest on average: how many times the median channel. */
function outliers(x) {
  const [L, D] = x.shape, size = new Float64Array(D);
  for (let i = 0; i < L * D; i++) size[i % D] += Math.abs(x.data[i]) / L;
  const sorted = size.slice().sort(), middle = (sorted[Math.ceil(D / 2 - 1)] + sorted[Math.floor(D / 2)]) / 2;
  const channels = [...size.keys()].sort((i, j) => size[j] - size[i]).slice(0, 5);
  return { channels, times: channels.map((c) => size[c] / middle) };
}

/** All cosines of rows [L, D] -> [L, L]. */
function similarities(x) {
  const unit = l2_normalize(x);
  return cosines(unit, unit);
}

/** The model in the page, and what it makes of a picture and of labels. */
export class Live {
  static async open(data, weights, spiece) {
    const [planes, vocabulary] = await Promise.all([gunzip(weights), gunzip(spiece)]);
    return new Live(data, unpack(data.live.names, data.live.width, planes), vocabulary);
  }

  constructor(data, params, vocabulary) {
    Object.assign(this, { data, params, config: data.config, off: new Set(), texts: new Map() });
    this.tokenizer = new Tokenizer(vocabulary, data.config.text.seq_len, { lower: data.live.lower });
    this.table = value_table(data.live.settings);
    this.quick = quicken(params);
    this.t = Math.exp(params.t_prime.data[0]);
    this.bias = params.bias.data[0];
  }

  /** Bytes of RGB [height, width, 3] become the picture. */
  look(bytes, height, width) {
    const side = this.config.image.image_size, resample = this.data.live.settings.resample;
    this.resized = height === side && width === side ? bytes : resize(bytes, height, width, side, side, resample);
    this.naive = naive_resize(bytes, height, width, side, side);
    this.pixels = array([1, 3, side, side], to_pixels(this.resized, side, this.table));
    this.whole = null;
    this.run();
  }

  /** The image tower from a block on, with the heads in `off` ("layer.head", "map.head") silent. */
  run(first = 0) {
    const { num_heads, width } = this.config.image, Dh = width / num_heads;
    if (!first) this.trace = {};
    const listen = keep(this.trace);
    const tap = (name, x) => {
      if (name.endsWith(".attn.mix") && this.off.size) {
        const layer = name.startsWith("image.map_head") ? "map" : Number(name.split(".")[2]);
        for (let h = 0; h < num_heads; h++)
          if (this.off.has(`${layer}.${h}`)) x.data.forEach((_, i) => { if (Math.floor((i % width) / Dh) === h) x.data[i] = 0; });
      }
      return listen(name, x);
    };
    const { image } = this.config;
    let x = first ? this.trace[`${block_name("image", Math.min(first, image.depth) - 1)}.+mlp`] : image_embed(this.params, image, this.pixels, tap);
    x = first > image.depth ? this.trace["image.final_ln"] : blocks(this.params, "image", x, image, tap, null, first);
    this.zimg = l2_normalize(pool(this.params, image, x, tap));
    if (!this.off.size) this.whole = this.zimg;
  }

  /** A head is switched; what comes before it stays. */
  toggle(head) {
    if (!this.off.delete(head)) this.off.add(head);
    this.run(head.startsWith("map") ? this.config.image.depth + 1 : Number(head.split(".")[0]));
  }

  /** The unit vector of texts, [K, D]; `masked`: padding is not attended to. */
  encode(texts, masked = false) {
    const L = this.tokenizer.seq_len, rows = texts.map((text) => this.tokenizer.row(text));
    const ids = array([texts.length, L], Int32Array.from(rows.flatMap((row) => row.ids)));
    const mask = masked ? rows.flatMap((row) => row.ids.map((_, i) => i < row.length)) : null;
    return l2_normalize(text_tower(this.params, this.config.text, ids, undefined, mask));
  }

  /** A text's row, pieces and vectors; computed once. */
  text(label) {
    const text = this.data.template.replace("{}", label);
    if (!this.texts.has(text)) {
      const row = this.tokenizer.row(text);
      this.texts.set(text, { ...row, label, text, canonical: canonicalize(text, this.data.live.lower), pieces: this.tokenizer.tokenize(text), ztxt: this.encode([text]) });
    }
    return this.texts.get(text);
  }

  /** What takes longer, of one text: its vector with padding masked, and without each of its words. */
  slowly(text) {
    if (text.masked) return;
    text.masked = this.encode([text.text], true);
    const words = text.text.split(/\s+/).filter(Boolean);
    text.without = words.length < 2 ? [] : words.map((word, i) => ({ word, ztxt: this.encode([words.filter((_, j) => j !== i).join(" ")]) }));
  }

  logit(ztxt) {
    return this.t * cosines(this.zimg, ztxt).data[0] + this.bias;
  }

  /** The cosines with all heads on; null if heads were off since the picture came. */
  whole_cosines(labels) {
    return this.whole && labels.map((label) => cosines(this.whole, this.text(label).ztxt).data[0]);
  }

  /** What a label owes to each patch, by exact gradients. */
  gradient(label) {
    const d = logit_by_patches(this.params, this.config.image, this.trace, this.text(label).ztxt.data, this.t);
    return patch_shares(d, extract_patches(this.pixels, this.config.image.patch_size));
  }

  /** What each label's logit loses when one window after the other is made grey: [K][W], `each` is told of progress. */
  async occlusion(labels, windows, each) {
    const count = Math.max(...windows) + 1, side = this.config.image.image_size, size = this.config.image.patch_size;
    const columns = Math.floor(side / size), found = labels.map(() => new Float64Array(count)), pixels = this.pixels, base = this.zimg;
    for (let w = 0; w < count; w++) {
      const covered = array(pixels.shape, pixels.data.slice());
      windows.forEach((window, patch) => {
        if (window !== w) return;
        const top = Math.floor(patch / columns) * size, left = (patch % columns) * size;
        for (let c = 0; c < 3; c++) for (let y = top; y < top + size; y++) covered.data.fill(0, (c * side + y) * side + left, (c * side + y) * side + left + size);
      });
      const zimg = l2_normalize(image_tower(this.params, this.config.image, covered));
      labels.forEach((label, k) => {
        const { ztxt } = this.text(label);
        found[k][w] = this.t * (cosines(base, ztxt).data[0] - cosines(zimg, ztxt).data[0]);
      });
      if (!each(w + 1, count)) return null;
      await new Promise((go) => setTimeout(go));
    }
    return found;
  }

  /** As `stored_view` has it, of the texts as they are now. */
  view_texts(labels, before) {
    const found = labels.map((label) => this.text(label));
    return {
      ...before, labels,
      cosines: found.map(({ ztxt }) => cosines(this.zimg, ztxt).data[0]),
      texts: found.map((text) => ({
        ...text,
        masked_cosine: text.masked && cosines(text.masked, text.ztxt).data[0],
        masked_logit: text.masked && this.logit(text.masked),
        words: (text.without ?? []).map(({ word, ztxt }) => ({ word, change: this.logit(text.ztxt) - this.logit(ztxt) })),
      })),
    };
  }

  /** As `stored_view` has it, of the picture as it is now. */
  view_image(before) {
    const { trace } = this, { depth, num_heads } = this.config.image, { rows, columns } = before, L = rows * columns;
    const layers = Array.from({ length: depth }, (_, i) => block_name("image", i)), attention = array([depth, num_heads, L, L]);
    layers.forEach((name, i) => attention.data.set(trace[`${name}.attn.probs`].data, i * num_heads * L * L));
    const heads = Array.from({ length: depth * num_heads }, (_, i) => attention.data.subarray(i * L * L, (i + 1) * L * L));
    const streams = [trace["image.embed"], ...layers.map((name) => trace[`${name}.+mlp`])].map((x) => array(x.shape.slice(1), x.data));
    const similar = streams.map(similarities), norms = (x) => Array.from({ length: L }, (_, i) => length_of(at(x, i)));
    const probe = array([num_heads, L], trace["image.map_head.attn.probs"].data), patches = trace["image.patch_embed"];
    const numbers = (shape, values) => array(shape, Float64Array.from(values));
    return {
      ...before, attention, probe, queries: Array.from({ length: L }, (_, i) => i),
      entropy: numbers([depth, num_heads], heads.map((x) => entropy(x, L))),
      distance: numbers([depth, num_heads], heads.map((x) => reach(x, rows, columns))),
      probe_entropy: numbers([num_heads], Array.from({ length: num_heads }, (_, h) => entropy(at(probe, h), L))),
      patch_norms: numbers([L], norms(array([L, patches.shape[2]], patches.data))),
      norms: numbers([depth + 1, L], streams.flatMap(norms)),
      stream_similarity: numbers([depth + 1, L, L], similar.flatMap((x) => Array.from(x.data))),
      mean_similarity: numbers([depth + 1], similar.map((x) => (L > 1 ? (x.data.reduce((sum, v) => sum + v, 0) - L) / (L * L - L) : 1))),
      outliers: streams.map(outliers),
    };
  }
}
