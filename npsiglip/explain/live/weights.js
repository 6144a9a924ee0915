/* A page's weights: base64, gzip, then planes of bytes, as npsiglip/explain/weights.py packs them. */

import { array, size } from "./model.js";

/** base64 -> bytes. */
export function from_base64(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

/** base64 of gzip -> bytes. */
export async function gunzip(text) {
  const stream = new Blob([from_base64(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Planes of bytes -> params: names and shapes in order, `width` bytes for each number. */
export function unpack(names, width, planes) {
  const count = planes.length / width, bits = new Uint32Array(count), params = {};
  for (let plane = 0; plane < width; plane++) {
    const shift = 8 * (4 - width + plane), from = plane * count;
    for (let i = 0; i < count; i++) bits[i] |= planes[from + i] << shift;
  }
  const values = new Float32Array(bits.buffer);
  let at = 0;
  for (const [name, shape] of names) params[name] = array(shape, Float64Array.from(values.subarray(at, (at += size(shape)))));
  return params;
}
