/* The product of matrices in WebAssembly, two float64 at a time: the same sums in the same order as `matmul` of model.js,
   so the same bits, in half the time. Where WebAssembly or its vectors are missing, model.js goes on alone.

   Four rows by four columns stay in registers, eight of two numbers. The code is put together here, byte by byte: */

import { accelerate, array } from "./model.js";

const I32 = 0x7f, V128 = 0x7b, BLOCK = 0x40;
const get = (i) => [0x20, i], set = (i) => [0x21, i], constant = (n) => [0x41, ...signed(n)];
const ADD = [0x6a], MUL = [0x6c], LESS = [0x48];  // of i32
const LOAD = [0xfd, 0x00, 3], STORE = [0xfd, 0x0b, 3], SPLAT = [0xfd, 0x0a, 3];  // v128.load, .store, .load64_splat; each + offset
const VECTOR_ADD = [0xfd, 0xf0, 0x01], VECTOR_MUL = [0xfd, 0xf2, 0x01], ZERO = [0xfd, 0x0c, ...new Array(16).fill(0)];

/** A whole number, not negative, as WebAssembly writes it; and one with a sign bit. */
function unsigned(n) {
  const bytes = [];
  do { bytes.push((n & 127) | (n > 127 ? 128 : 0)); n >>>= 7; } while (n);
  return bytes;
}
function signed(n) {
  const bytes = [];
  for (;;) {
    const low = n & 127;
    n >>= 7;
    if (n === 0 && !(low & 64)) return [...bytes, low];
    bytes.push(low | 128);
  }
}
const section = (id, ...items) => [id, ...unsigned(unsigned(items.length).length + items.flat().length), ...unsigned(items.length), ...items.flat()];
const text = (word) => [word.length, ...[...word].map((letter) => letter.charCodeAt(0))];
/** A loop that ends with a test whether to go on. */
const loop = (...body) => [0x03, BLOCK, ...body.flat(), 0x0d, 0, 0x0b];

/** panel(x, w, y, K, C): y [4, C] = x [4, K] w [K, C], C a multiple of 4; places in bytes. */
function program() {
  const [x, w, y, K, C, column, at, k, end] = [0, 1, 2, 3, 4, 5, 6, 7, 8], sums = 9, left = 17, right = 18, spread = 19;
  const row = (i) => [...get(x), ...get(K), ...constant(8 * i), ...MUL, ...ADD];  // of x, in bytes
  const inner = [
    get(at), LOAD, 0, set(left), get(at), LOAD, 16, set(right),
    ...[0, 1, 2, 3].flatMap((i) => [
      row(i), get(k), ADD, SPLAT, 0, set(spread),
      get(sums + 2 * i), get(spread), get(left), VECTOR_MUL, VECTOR_ADD, set(sums + 2 * i),
      get(sums + 2 * i + 1), get(spread), get(right), VECTOR_MUL, VECTOR_ADD, set(sums + 2 * i + 1),
    ]),
    get(at), get(C), constant(8), MUL, ADD, set(at),
    get(k), constant(8), ADD, set(k), get(k), get(K), constant(8), MUL, LESS,
  ];
  const store = (i, half) => [get(y), get(C), constant(8 * i), MUL, ADD, get(column), ADD, get(sums + 2 * i + half), STORE, 16 * half];
  const body = [
    constant(0), set(column), get(C), constant(8), MUL, set(end),
    loop(
      ...Array.from({ length: 8 }, (_, i) => [ZERO, set(sums + i)]).flat(),
      get(w), get(column), ADD, set(at), constant(0), set(k),
      loop(...inner),
      ...[0, 1, 2, 3].flatMap((i) => [...store(i, 0), ...store(i, 1)]),
      get(column), constant(32), ADD, set(column), get(column), get(end), LESS,
    ),
  ].flat();
  const locals = [2, 4, I32, 11, V128], code = [...locals, ...body, 0x0b];
  return new Uint8Array([
    0, 0x61, 0x73, 0x6d, 1, 0, 0, 0,
    ...section(1, [0x60, 5, I32, I32, I32, I32, I32, 0]),
    ...section(2, [...text("m"), ...text("m"), 2, 0, 1]),
    ...section(3, [0]),
    ...section(7, [...text("panel"), 0, 0]),
    ...section(10, [...unsigned(code.length), ...code]),
  ]);
}

/** Moves a model's matrices to where WebAssembly can read them, and lets model.js use it; false where it cannot be. */
export function quicken(params, widest = 4096) {
  const matrices = Object.values(params).filter(({ shape }) => shape.length === 2 && shape[1] % 4 === 0);
  const scratch = 8 * 4 * widest, total = 2 * scratch + matrices.reduce((sum, { data }) => sum + 8 * data.length, 0);
  let memory, panel;
  try {
    memory = new WebAssembly.Memory({ initial: Math.ceil(total / 65536) });
    ({ panel } = new WebAssembly.Instance(new WebAssembly.Module(program()), { m: { m: memory } }).exports);
  } catch {
    return false;
  }
  const rows_in = new Float64Array(memory.buffer, 0, 4 * widest), rows_out = new Float64Array(memory.buffer, scratch, 4 * widest);
  let place = 2 * scratch;
  for (const matrix of matrices) {
    const moved = new Float64Array(memory.buffer, place, matrix.data.length);
    moved.set(matrix.data);
    matrix.data = moved;
    place += 8 * moved.length;
  }
  accelerate((x, w, b) => {
    const [K, C] = w.shape;
    if (w.data.buffer !== memory.buffer || C % 4 || Math.max(K, C) > widest) return null;
    const rows = x.data.length / K, y = array([...x.shape.slice(0, -1), C]);
    for (let r = 0; r < rows; r += 4) {
      const count = Math.min(4, rows - r);
      rows_in.set(x.data.subarray(r * K, (r + count) * K));
      panel(0, w.data.byteOffset, scratch, K, C);
      y.data.set(rows_out.subarray(0, count * C), r * C);
    }
    if (b) for (let i = 0, c = 0; i < y.data.length; i++, c = c + 1 === C ? 0 : c + 1) y.data[i] += b.data[c];
    return y;
  });
  return true;
}
