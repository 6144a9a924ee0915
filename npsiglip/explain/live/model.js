/* The whole forward pass of SigLIP in plain JavaScript, smallest piece first: gelu_tanh ... siglip.

   A port of npsiglip/reference/model.py, in its order and under its names, and held to it by a conformance pack
   (docs/packs.md). JavaScript's numbers are float64, so this is float64 too.

   An array is { shape, data }: data a Float64Array, row by row. `params` maps a name such as "image.blocks.03.attn.q.w"
   to one. `tap(name, x)` is told every intermediate result, and gives back what to go on with: that traces, exchanges
   a result for a golden one, or switches a head off.

   Dimensions: N batch, L tokens, D width, H heads, Dh = D / H head width, M mlp width, P patch.
   Left out on purpose: NaFlex, grids of another size, classifiers. */

export const size = (shape) => shape.reduce((product, side) => product * side, 1);
export const array = (shape, data = new Float64Array(size(shape))) => ({ shape, data });
export const map = (x, f) => array(x.shape, x.data.map(f));
export const add = (x, y) => array(x.shape, x.data.map((value, i) => value + y.data[i]));
export const KEEP_NOTHING = (name, x) => x;

/** A tap that keeps everything in `trace`. */
export const keep = (trace) => (name, x) => (trace[name] = x);

/** 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form, which SigLIP is trained with, not erf. Written
    as x sigmoid(2 u), which is the same, and quicker. */
export const gelu_tanh = (x) => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)));

/** 1 - erf(x): a series of positive terms near zero, a continued fraction further out. */
export function erfc(x) {
  if (x < 0) return 2 - erfc(-x);
  if (x < 2.5) {
    let term = x, sum = x;
    for (let n = 1; term > 1e-17 * sum; n++) sum += term *= (2 * x * x) / (2 * n + 1);
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }
  let fraction = x;
  for (let n = 60; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / fraction / Math.sqrt(Math.PI);
}

/** 0.5 x (1 + erf(x / sqrt(2))), the exact form, which open_clip computes in many models. */
export const gelu_erf = (x) => 0.5 * x * erfc(-x / Math.SQRT2);

export const GELU = { gelu_tanh, gelu_erf };

/** 1 / (1 + exp(-x)), written so that exp cannot overflow. */
export function sigmoid(x) {
  const e = Math.exp(-Math.abs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

/** exp(x) / sum(exp(x)) of `length` numbers from `start` on, in place; shifted so that exp cannot overflow. */
export function softmax(data, start = 0, length = data.length) {
  let top = -Infinity, sum = 0;
  for (let i = start; i < start + length; i++) top = Math.max(top, data[i]);
  for (let i = start; i < start + length; i++) sum += data[i] = Math.exp(data[i] - top);
  for (let i = start; i < start + length; i++) data[i] /= sum;
  return data;
}

/** x / |x| over the last axis. No epsilon, as in Hugging Face. */
export function l2_normalize(x) {
  const width = x.shape.at(-1), y = array(x.shape);
  for (let start = 0; start < x.data.length; start += width) {
    let sum = 0;
    for (let i = start; i < start + width; i++) sum += x.data[i] * x.data[i];
    for (let i = start; i < start + width; i++) y.data[i] = x.data[i] / Math.sqrt(sum);
  }
  return y;
}

/** (x - mean) / sqrt(var + eps) * scale + b over the last axis, var without Bessel's correction. */
export function layer_norm(x, scale, b, eps) {
  const width = x.shape.at(-1), y = array(x.shape);
  for (let start = 0; start < x.data.length; start += width) {
    let mean = 0, variance = 0;
    for (let i = start; i < start + width; i++) mean += x.data[i] / width;
    for (let i = start; i < start + width; i++) variance += (x.data[i] - mean) ** 2 / width;
    const deviation = Math.sqrt(variance + eps);
    for (let i = 0; i < width; i++) y.data[start + i] = ((x.data[start + i] - mean) / deviation) * scale.data[i] + b.data[i];
  }
  return y;
}

const norm = (params, name, x, eps) => layer_norm(x, params[`${name}.scale`], params[`${name}.b`], eps);

let fast = null;

/** Lets another compute products, where it can: f(x, w, b) gives x w + b, or null. See fast.js. */
export const accelerate = (f) => { fast = f; };

/** x w + b: x [..., K], w [K, C], b [C] or null -> [..., C]. Four rows by two columns at once, whose sums stay in registers; at an edge
    the last row and column are computed again instead of ones that are not there. */
export function matmul(x, w, b = null) {
  const done = fast && fast(x, w, b);
  if (done) return done;
  const [K, C] = w.shape, rows = x.data.length / K, y = array([...x.shape.slice(0, -1), C]);
  const xs = x.data, ws = w.data, ys = y.data;
  for (let r = 0; r < rows; r += 4) {
    const r1 = Math.min(r + 1, rows - 1), r2 = Math.min(r + 2, rows - 1), r3 = Math.min(r + 3, rows - 1);
    const x0 = r * K, x1 = r1 * K, x2 = r2 * K, x3 = r3 * K;
    for (let c = 0; c < C; c += 2) {
      const c1 = Math.min(c + 1, C - 1);
      let s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
      for (let k = 0, at = c, next = c1; k < K; k++, at += C, next += C) {
        const w0 = ws[at], w1 = ws[next], a = xs[x0 + k], b = xs[x1 + k], d = xs[x2 + k], e = xs[x3 + k];
        s00 += a * w0; s01 += a * w1; s10 += b * w0; s11 += b * w1;
        s20 += d * w0; s21 += d * w1; s30 += e * w0; s31 += e * w1;
      }
      const b0 = b ? b.data[c] : 0, b1 = b ? b.data[c1] : 0;
      ys[r * C + c] = s00 + b0; ys[r * C + c1] = s01 + b1;
      ys[r1 * C + c] = s10 + b0; ys[r1 * C + c1] = s11 + b1;
      ys[r2 * C + c] = s20 + b0; ys[r2 * C + c1] = s21 + b1;
      ys[r3 * C + c] = s30 + b0; ys[r3 * C + c1] = s31 + b1;
    }
  }
  return y;
}

/** x w + b. */
export const linear = (params, name, x) => matmul(x, params[`${name}.w`], params[`${name}.b`]);

/** softmax(q k^T / sqrt(Dh)): q [N, Lq, D], k [N, L, D] -> [N, H, Lq, L]; a key of a false in mask [N, L] gets none. */
export function attention_probs(q, k, num_heads, mask = null) {
  const [N, Lq, D] = q.shape, L = k.shape[1], Dh = D / num_heads, probs = array([N, num_heads, Lq, L]);
  const qs = q.data, ks = k.data;
  let out = 0;
  for (let n = 0; n < N; n++)
    for (let h = 0; h < num_heads; h++)
      for (let i = 0; i < Lq; i++, out += L) {
        const at = (n * Lq + i) * D + h * Dh;
        for (let j = 0; j < L; j++) {
          const to = (n * L + j) * D + h * Dh;
          let score = 0;
          for (let c = 0; c < Dh; c++) score += qs[at + c] * ks[to + c];
          probs.data[out + j] = mask && !mask[n * L + j] ? -Infinity : score / Math.sqrt(Dh);
        }
        softmax(probs.data, out, L);
      }
  return probs;
}

/** Sums of v by probs, heads beside each other again: [N, H, Lq, L], [N, L, D] -> [N, Lq, D]. */
export function attention_mix(probs, v) {
  const [N, H, Lq, L] = probs.shape, D = v.shape[2], Dh = D / H, mix = array([N, Lq, D]);
  const vs = v.data, sums = mix.data;
  let from = 0;
  for (let n = 0; n < N; n++)
    for (let h = 0; h < H; h++)
      for (let i = 0; i < Lq; i++)
        for (let j = 0; j < L; j++, from++) {
          const p = probs.data[from], at = (n * Lq + i) * D + h * Dh, to = (n * L + j) * D + h * Dh;
          for (let c = 0; c < Dh; c++) sums[at + c] += p * vs[to + c];
        }
  return mix;
}

/** Multi-head attention, softmax(q k^T / sqrt(Dh)) v, of queries [N, Lq, D] to tokens [N, L, D] -> [N, Lq, D]. */
export function attention(params, name, x_q, x_kv, num_heads, tap = KEEP_NOTHING, mask = null) {
  const q = tap(`${name}.q`, linear(params, `${name}.q`, x_q));
  const k = tap(`${name}.k`, linear(params, `${name}.k`, x_kv));
  const v = tap(`${name}.v`, linear(params, `${name}.v`, x_kv));
  const probs = tap(`${name}.probs`, attention_probs(q, k, num_heads, mask));
  const mix = tap(`${name}.mix`, attention_mix(probs, v));
  return tap(`${name}.out`, linear(params, `${name}.out`, mix));
}

/** fc2(gelu(fc1(x))): [N, L, D] -> [N, L, M] -> [N, L, D]. */
export function mlp(params, name, x, tap = KEEP_NOTHING, activation = "gelu_tanh") {
  const h = tap(`${name}.fc1`, linear(params, `${name}.fc1`, x));
  const g = tap(`${name}.gelu`, map(h, GELU[activation]));
  return tap(`${name}.fc2`, linear(params, `${name}.fc2`, g));
}

/** One pre-LN transformer block: x + attention(ln1(x)), then x + mlp(ln2(x)). */
export function block(params, name, x, config, tap = KEEP_NOTHING, mask = null) {
  let y = tap(`${name}.ln1`, norm(params, `${name}.ln1`, x, config.layer_norm_eps));
  y = attention(params, `${name}.attn`, y, y, config.num_heads, tap, mask);
  x = tap(`${name}.+attn`, add(x, y));
  y = tap(`${name}.ln2`, norm(params, `${name}.ln2`, x, config.layer_norm_eps));
  y = mlp(params, `${name}.mlp`, y, tap, config.activation);
  return tap(`${name}.+mlp`, add(x, y));
}

export const block_name = (tower, i) => `${tower}.blocks.${String(i).padStart(2, "0")}`;

/** All blocks of a tower, from number `first` on, then the final LayerNorm: [N, L, D] -> [N, L, D]. */
export function blocks(params, tower, x, config, tap = KEEP_NOTHING, mask = null, first = 0) {
  for (let i = first; i < config.depth; i++) x = block(params, block_name(tower, i), x, config, tap, mask);
  return tap(`${tower}.final_ln`, norm(params, `${tower}.final_ln`, x, config.layer_norm_eps));
}

/** [N, 3, H, W] -> [N, L, P * P * 3]: patches row by row, each ordered (row, column, channel); what the patch does not
    divide is left out at the right and at the bottom. */
export function extract_patches(pixels, patch_size) {
  const [N, , height, width] = pixels.shape, rows = Math.floor(height / patch_size), columns = Math.floor(width / patch_size);
  const patches = array([N, rows * columns, patch_size * patch_size * 3]);
  let out = 0;
  for (let n = 0; n < N; n++)
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        for (let y = row * patch_size; y < (row + 1) * patch_size; y++)
          for (let x = column * patch_size; x < (column + 1) * patch_size; x++)
            for (let c = 0; c < 3; c++) patches.data[out++] = pixels.data[((n * 3 + c) * height + y) * width + x];
  return patches;
}

/** MAP pooling: a learned probe attends to all tokens, then an MLP with residual: [N, L, D] -> [N, D]. The probe itself
    is not added to what it attended to: there is one residual here, not two. */
export function map_head(params, name, x, config, tap = KEEP_NOTHING) {
  const [N, , D] = x.shape, probe = array([N, 1, D]);
  for (let n = 0; n < N; n++) probe.data.set(params[`${name}.probe`].data, n * D);
  const a = attention(params, `${name}.attn`, probe, x, config.num_heads, tap);
  const y = tap(`${name}.ln`, norm(params, `${name}.ln`, a, config.layer_norm_eps));
  const pooled = tap(`${name}.+mlp`, add(a, mlp(params, `${name}.mlp`, y, tap, config.activation)));
  return array([N, D], pooled.data);
}

/** The mean of all tokens: [N, L, D] -> [N, D]. */
export function mean_of_tokens(x) {
  const [N, L, D] = x.shape, y = array([N, D]);
  for (let i = 0; i < x.data.length; i++) y.data[Math.floor(i / (L * D)) * D + (i % D)] += x.data[i] / L;
  return y;
}

/** Tokens to a vector by the MAP head, [N, L, D] -> [N, D]; without a head their mean, or they are the result. */
export function pool(params, config, x, tap = KEEP_NOTHING) {
  if (config.mean) return tap("image.pooled", mean_of_tokens(x));
  if (!config.head) return x;
  return tap("image.pooled", map_head(params, "image.map_head", x, config, tap));
}

/** x + table, the same table for each of N: [N, L, D], of a table [>= L, D]. */
function add_positions(x, table) {
  const [, L, D] = x.shape;
  return map(x, (value, i) => value + table.data[i % (L * D)]);
}

/** Patches with their positions: pixels [N, 3, S, S] in [-1, 1] -> [N, L, D]. */
export function image_embed(params, config, pixels, tap = KEEP_NOTHING) {
  const x = tap("image.patch_embed", linear(params, "image.patch_embed", extract_patches(pixels, config.patch_size)));
  return tap("image.embed", add_positions(x, params["image.pos_embed"]));
}

/** Images to vectors, not normalised: pixels [N, 3, S, S] in [-1, 1] -> [N, D]; `config`: that of the image tower. */
export function image_tower(params, config, pixels, tap = KEEP_NOTHING) {
  const x = image_embed(params, config, pixels, tap);
  return pool(params, config, blocks(params, "image", x, config, tap), tap);
}

/** Texts to vectors, not normalised: token ids [N, L] -> [N, D]. No causal mask, and no padding mask unless one is
    given: the result is taken from the last position, padding or not. */
export function text_tower(params, config, ids, tap = KEEP_NOTHING, mask = null) {
  const [N, L] = ids.shape, table = params["text.token_embed"], D = table.shape[1];
  let x = array([N, L, D]);
  ids.data.forEach((id, i) => x.data.set(table.data.subarray(id * D, (id + 1) * D), i * D));
  x = tap("text.embed", add_positions(x, params["text.pos_embed"]));
  x = blocks(params, "text", x, config, tap, mask);
  const last = array([N, D]);
  for (let n = 0; n < N; n++) last.data.set(x.data.subarray(((n + 1) * L - 1) * D, (n + 1) * L * D), n * D);
  return tap("text.head", linear(params, "text.head", tap("text.pooled", last)));
}

/** zimg ztxt^T, the cosines of unit vectors [N, D], [K, D] -> [N, K]. */
export function cosines(zimg, ztxt) {
  const [N, D] = zimg.shape, K = ztxt.shape[0], y = array([N, K]);
  const us = zimg.data, vs = ztxt.data;
  for (let n = 0; n < N; n++)
    for (let k = 0; k < K; k++) {
      let sum = 0;
      for (let i = 0; i < D; i++) sum += us[n * D + i] * vs[k * D + i];
      y.data[n * K + k] = sum;
    }
  return y;
}

/** t zimg ztxt^T + bias, with t = exp(t_prime). */
export const logits = (zimg, ztxt, t_prime, bias) => map(cosines(zimg, ztxt), (s) => Math.exp(t_prime) * s + bias);

/** Images against texts: pixels [N, 3, S, S], ids [K, L] -> logits [N, K]; sigmoid(logits) is the probability of each
    pair on its own. `config`: { image, text }. */
export function siglip(params, config, pixels, ids, tap = KEEP_NOTHING) {
  const zimg = tap("zimg", l2_normalize(image_tower(params, config.image, pixels, tap)));
  const ztxt = tap("ztxt", l2_normalize(text_tower(params, config.text, ids, tap)));
  const z = tap("logits", logits(zimg, ztxt, params.t_prime.data[0], params.bias.data[0]));
  tap("probs", map(z, sigmoid));
  return z;
}
