/* Pictures to pixels: Pillow's resize of RGB bytes, and the model's scale.

   Bit for bit Pillow's (13.0: two passes in whole numbers of 22 bits, rounded and clipped to bytes in between).
   Not Pillow's: what a browser makes of a file before this. Its JPEG decoder may be off by a level or two, it applies
   colour profiles, and it mixes what is transparent with white; PNG without profile and transparency is exact. */

/** Keys' cubic with a = -0.5, the filter that Pillow calls bicubic. */
export function cubic(x) {
  x = Math.abs(x);
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

export const triangle = (x) => Math.max(1 - Math.abs(x), 0);

const FILTERS = { 2: [triangle, 1], 3: [cubic, 2] }; // Pillow's numbers: bilinear, bicubic; and how far they reach
const BITS = 22;

/** For each of `target` outputs, where its inputs start, and their weights as whole numbers of 22 bits. Where the
    picture shrinks, the filter is as much wider as outputs are. */
export function resize_weights(length, target, resample = 3) {
  const [kernel, reach] = FILTERS[resample], scale = length / target, wide = Math.max(scale, 1), support = reach * wide;
  return Array.from({ length: target }, (_, i) => {
    const centre = (i + 0.5) * scale, start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), length);
    const weights = [];
    let sum = 0;
    for (let x = start; x < end; x++) sum += weights[weights.push(kernel((x - centre + 0.5) * (1 / wide))) - 1];
    const whole = weights.map((w) => ((w / sum) < 0 ? Math.trunc(-0.5 + (w / sum) * 2 ** BITS) : Math.trunc(0.5 + (w / sum) * 2 ** BITS)));
    return [start, whole];
  });
}

/** One pass: `lines` independent lines; `step` and `jump` are from pixel to pixel and from line to line. */
function pass(bytes, out, weights, lines, step, jump, out_step, out_jump) {
  for (let line = 0; line < lines; line++)
    weights.forEach(([start, whole], i) => {
      for (let c = 0; c < 3; c++) {
        let sum = 2 ** (BITS - 1), at = line * jump + start * step + c;
        for (let k = 0; k < whole.length; k++, at += step) sum += bytes[at] * whole[k];
        out[line * out_jump + i * out_step + c] = Math.min(Math.max(Math.floor(sum / 2 ** BITS), 0), 255);
      }
    });
  return out;
}

/** RGB bytes [height, width, 3] -> [rows, columns, 3], squashed to the new shape. The horizontal pass goes first, unless
    the height shrinks by much more than the width: Pillow's order since 13.0. */
export function resize(bytes, height, width, rows, columns, resample = 3) {
  const across = (x, lines) => width === columns ? x
    : pass(x, new Uint8Array(lines * columns * 3), resize_weights(width, columns, resample), lines, 3, width * 3, 3, columns * 3);
  const down = (x, wide) => height === rows ? x
    : pass(x, new Uint8Array(rows * wide * 3), resize_weights(height, rows, resample), wide, wide * 3, 3, wide * 3, 3);
  return vertical_first(height, width, rows, columns) ? across(down(bytes, width), rows) : down(across(bytes, height), columns);
}

/** Whether Pillow 13.0 takes the vertical pass first. */
export const vertical_first = (height, width, rows, columns) => height > rows && height - rows > 2 * (width - columns);

/** The naive resize: each output the mean of the four inputs around its centre, however many lie between. */
export function naive_resize(bytes, height, width, rows, columns) {
  const out = new Uint8Array(rows * columns * 3);
  for (let r = 0; r < rows; r++)
    for (let q = 0; q < columns; q++) {
      const y = Math.min(Math.max(((r + 0.5) * height) / rows - 0.5, 0), height - 1);
      const x = Math.min(Math.max(((q + 0.5) * width) / columns - 0.5, 0), width - 1);
      const y0 = Math.floor(y), x0 = Math.floor(x), y1 = Math.min(y0 + 1, height - 1), x1 = Math.min(x0 + 1, width - 1);
      for (let c = 0; c < 3; c++) {
        const at = (row, column) => bytes[(row * width + column) * 3 + c];
        const top = at(y0, x0) * (1 - x + x0) + at(y0, x1) * (x - x0), low = at(y1, x0) * (1 - x + x0) + at(y1, x1) * (x - x0);
        out[(r * columns + q) * 3 + c] = Math.round(top * (1 - y + y0) + low * (y - y0));
      }
    }
  return out;
}

/** What each byte becomes in each channel: ((byte * rescale) - mean) / std, the product in float64, the rest in float32. */
export function value_table({ rescale_factor = 1 / 255, image_mean = [0.5, 0.5, 0.5], image_std = [0.5, 0.5, 0.5] } = {}) {
  const f = Math.fround;
  return image_mean.map((mean, c) =>
    Float64Array.from({ length: 256 }, (_, byte) => f(f(f(byte * rescale_factor) - f(mean)) / f(image_std[c]))));
}

/** Bytes [S, S, 3] -> numbers [3, S, S]. */
export function to_pixels(bytes, side, table = value_table()) {
  const pixels = new Float64Array(3 * side * side);
  for (let i = 0; i < bytes.length; i++) pixels[(i % 3) * side * side + Math.floor(i / 3)] = table[i % 3][bytes[i]];
  return pixels;
}
