/* The gradient of the image tower by its input, piece by piece, in the order and under the names of model.js.

   A port of npsiglip/reference/backward.py without the gradients of parameters: it answers what a logit owes to each
   patch. d_y stands for d logit / d y; a piece takes d_y of its result, and returns d_x of its input. */

import { add, array, block_name, map, matmul } from "./model.js";

/** dy/dx of gelu_tanh. */
export function gelu_tanh(x) {
  const tanh = Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
}

/** d_x = (d_z - z (z . d_z)) / |x|. */
export function l2_normalize(x, d_z) {
  const length = Math.hypot(...x.data), along = x.data.reduce((sum, value, i) => sum + (value / length) * d_z.data[i], 0);
  return map(x, (value, i) => (d_z.data[i] - (value / length) * along) / length);
}

/** d_x = (d_n - mean(d_n) - n mean(d_n n)) / s, d_n = d_y scale. */
export function layer_norm(x, scale, eps, d_y) {
  const D = x.shape.at(-1), d_x = array(x.shape);
  for (let start = 0; start < x.data.length; start += D) {
    let mean = 0, variance = 0, first = 0, second = 0;
    for (let i = 0; i < D; i++) mean += x.data[start + i] / D;
    for (let i = 0; i < D; i++) variance += (x.data[start + i] - mean) ** 2 / D;
    const s = Math.sqrt(variance + eps);
    for (let i = 0; i < D; i++) {
      const d_n = d_y.data[start + i] * scale.data[i];
      first += d_n / D;
      second += (d_n * (x.data[start + i] - mean)) / s / D;
    }
    for (let i = 0; i < D; i++) {
      const n = (x.data[start + i] - mean) / s;
      d_x.data[start + i] = (d_y.data[start + i] * scale.data[i] - first - n * second) / s;
    }
  }
  return d_x;
}

const transposed = new WeakMap();

/** w^T [C, K] of w [K, C], made once. */
function transpose(w) {
  if (!transposed.has(w)) {
    const [K, C] = w.shape, y = array([C, K]);
    for (let k = 0; k < K; k++) for (let c = 0; c < C; c++) y.data[c * K + k] = w.data[k * C + c];
    transposed.set(w, y);
  }
  return transposed.get(w);
}

/** y = x w + b: d_x = d_y w^T. */
export const linear = (params, name, d_y) => matmul(d_y, transpose(params[`${name}.w`]));

const norm = (params, name, x, eps, d_y) => layer_norm(x, params[`${name}.scale`], eps, d_y);

/** d_p = d_mix v^T, d_v = p^T d_mix, d_scores_j = p_j (d_p_j - sum d_p p); d_q = d_scores k, d_k = d_scores^T q. */
export function attention(params, name, num_heads, trace, d_out) {
  const d_mix = linear(params, `${name}.out`, d_out).data, probs = trace[`${name}.probs`];
  const [q, k, v] = ["q", "k", "v"].map((part) => trace[`${name}.${part}`]);
  const [, Lq, D] = q.shape, L = k.shape[1], Dh = D / num_heads;
  const d_q = array(q.shape), d_k = array(k.shape), d_v = array(v.shape), d_p = new Float64Array(L);
  for (let h = 0; h < num_heads; h++)
    for (let i = 0; i < Lq; i++) {
      const at = i * D + h * Dh, row = (h * Lq + i) * L;
      let along = 0;
      for (let j = 0; j < L; j++) {
        const to = j * D + h * Dh;
        d_p[j] = 0;
        for (let c = 0; c < Dh; c++) {
          d_p[j] += d_mix[at + c] * v.data[to + c];
          d_v.data[to + c] += probs.data[row + j] * d_mix[at + c];
        }
        along += d_p[j] * probs.data[row + j];
      }
      for (let j = 0; j < L; j++) {
        const to = j * D + h * Dh, d_score = (probs.data[row + j] * (d_p[j] - along)) / Math.sqrt(Dh);
        for (let c = 0; c < Dh; c++) {
          d_q.data[at + c] += d_score * k.data[to + c];
          d_k.data[to + c] += d_score * q.data[at + c];
        }
      }
    }
  const d_kv = add(linear(params, `${name}.k`, d_k), linear(params, `${name}.v`, d_v));
  return [linear(params, `${name}.q`, d_q), d_kv];
}

/** y = fc2(gelu(fc1(x))), backwards. */
export function mlp(params, name, trace, d_y) {
  const h = trace[`${name}.fc1`], d_g = linear(params, `${name}.fc2`, d_y);
  return linear(params, `${name}.fc1`, map(d_g, (value, i) => value * gelu_tanh(h.data[i])));
}

/** y = r + mlp(ln2(r)), r = x + attention(ln1(x)): at each sum d_y goes both ways, unchanged. */
export function block(params, name, x, config, trace, d_y) {
  const eps = config.layer_norm_eps, d_ln2 = mlp(params, `${name}.mlp`, trace, d_y);
  const d_r = add(d_y, norm(params, `${name}.ln2`, trace[`${name}.+attn`], eps, d_ln2));
  const [d_q, d_kv] = attention(params, `${name}.attn`, config.num_heads, trace, d_r);
  return add(d_r, norm(params, `${name}.ln1`, x, eps, add(d_q, d_kv)));
}

/** y = a + mlp(ln(a)), a = attention(probe, x): [1, D] -> [1, L, D]. */
export function map_head(params, name, config, trace, d_y) {
  const d_ln = mlp(params, `${name}.mlp`, trace, d_y);
  const d_a = add(d_y, norm(params, `${name}.ln`, trace[`${name}.attn.out`], config.layer_norm_eps, d_ln));
  return attention(params, `${name}.attn`, config.num_heads, trace, d_a)[1];
}

/** Of one image and one text: d logit / d patches, [1, L, P * P * 3]. `trace` is that of model.js, of this image alone;
    ztxt [D] the text's unit vector, t = exp(t_prime). */
export function logit_by_patches(params, config, trace, ztxt, t) {
  const pooled = trace["image.pooled"];
  let d_x = l2_normalize(pooled, map(array(pooled.shape, ztxt), (value) => t * value));
  d_x = map_head(params, "image.map_head", config, trace, array([1, 1, pooled.shape[1]], d_x.data));
  const streams = [trace["image.embed"]];
  for (let i = 0; i < config.depth; i++) streams.push(trace[`${block_name("image", i)}.+mlp`]);
  d_x = norm(params, "image.final_ln", streams[config.depth], config.layer_norm_eps, d_x);
  for (let i = config.depth - 1; i >= 0; i--) d_x = block(params, block_name("image", i), streams[i], config, trace, d_x);
  return linear(params, "image.patch_embed", d_x);
}

/** What a logit owes to each patch: sum of gradient times pixel over the patch, [L]. Grey is 0, so this is how much the
    logit would fall if the patch were made grey, were the model linear. */
export function patch_shares(d_patches, patches) {
  const [, L, width] = patches.shape, shares = new Float64Array(L);
  for (let i = 0; i < patches.data.length; i++) shares[Math.floor(i / width)] += d_patches.data[i] * patches.data[i];
  return shares;
}
