/* What this port makes of a conformance pack (docs/packs.md): in Node by conform.js, in a browser by a test. */

import { array, image_tower, keep, l2_normalize, siglip, text_tower } from "./model.js";
import { resize, to_pixels, value_table } from "./resize.js";
import { Tokenizer } from "./tokenizer.js";

const READ = { F32: Float32Array, F64: Float64Array, U8: Uint8Array, I32: Int32Array, I64: BigInt64Array };

/** The arrays of a .safetensors file: name -> { shape, data }. */
export function read_safetensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))), found = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    found[name] = { shape, data: new READ[dtype](bytes.slice(8 + length + start, 8 + length + end).buffer) };
  }
  return found;
}

/** Arrays as a .safetensors file, of float64, or int32 where they are whole numbers of their own. */
export function write_safetensors(arrays) {
  const header = {}, parts = [];
  let at = 0;
  for (const [name, { shape, data }] of Object.entries(arrays)) {
    header[name] = { dtype: data instanceof Int32Array ? "I32" : "F64", shape, data_offsets: [at, (at += data.byteLength)] };
    parts.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  let json = JSON.stringify(header);
  json += " ".repeat((8 - (json.length % 8)) % 8);
  const file = new Uint8Array(8 + json.length + at);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(new TextEncoder().encode(json), 8);
  at = 8 + json.length;
  for (const part of parts) { file.set(part, at); at += part.length; }
  return file;
}

const order = (scores) => Int32Array.from(scores.keys()).sort((i, j) => scores[j] - scores[i] || i - j);

/** What this port makes of a pack: { about: pack.json, tensors, spiece: bytes, settings: of the images }. */
export function results({ about, tensors, spiece, settings }) {
  const { config, texts } = about, params = {}, out = {};
  const golden = (name) => array(tensors[name].shape, Float64Array.from(tensors[name].data));
  for (const name of Object.keys(tensors)) if (name.startsWith("weights/")) params[name.slice(8)] = golden(name);
  const pixels = tensors["image.pixels"] && golden("image.pixels");
  const ids = tensors["text.ids"] && array(tensors["text.ids"].shape, Int32Array.from(tensors["text.ids"].data));

  if (spiece && texts.length) {  // level 0
    const tokenizer = new Tokenizer(spiece, config.text.seq_len);
    out["text.ids"] = array(ids.shape, Int32Array.from(texts.flatMap((text) => tokenizer.row(text).ids)));
  }
  if (settings && about.pictures.length) {  // level 1
    const side = config.image.image_size, found = array([about.pictures.length, 3, side, side]);
    about.pictures.forEach((name, i) => {
      const { shape: [height, width], data } = tensors[name];
      found.data.set(to_pixels(resize(data, height, width, side, side, settings.resample), side, value_table(settings)), i * 3 * side * side);
    });
    out["image.pixels"] = found;
  }
  const single = new Set(about.levels.flatMap(({ level, checks }) => (level === 2 ? checks.map(({ tap }) => tap) : [])));
  const exchange = (name, x) => {  // level 2: a result is shown, and the golden one goes on
    if (single.has(name)) out[`level2.${name}`] = x;
    return golden(name);
  };
  for (const tap of [exchange, keep(out)]) {  // level 2, then 3 and 4
    if (pixels && ids) siglip(params, config, pixels, ids, tap);
    else if (pixels) tap("zimg", l2_normalize(image_tower(params, config.image, pixels, tap)));
    else tap("ztxt", l2_normalize(text_tower(params, config.text, ids, tap)));
  }
  if (tensors.logits) {  // level 5
    const { shape: [N, K], data } = tensors.logits;
    const rows = Array.from({ length: N }, (_, n) => data.subarray(n * K, (n + 1) * K));
    out["ranking.texts"] = array([N, K], Int32Array.from(rows.flatMap((row) => [...order(row)])));
    const columns = Array.from({ length: K }, (_, k) => rows.map((row) => row[k]));
    out["ranking.images"] = array([K, N], Int32Array.from(columns.flatMap((column) => [...order(column)])));
  }
  return out;
}
