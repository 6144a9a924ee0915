/* The sigmoid loss of N matched pairs, CLIP's softmax loss beside it, and the same in blocks that go round a ring.

   A port of npsiglip/reference/loss.py, of what needs logits only. Logits are arrays [B, B], images in rows. */

import { sigmoid, softmax } from "./model.js";

/** log(1 + exp(x)), written so that exp cannot overflow; -log sigmoid(x) = softplus(-x). */
export const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** What image i and text j add to the loss of B pairs: softplus(-y z) / B, y = 1 on the diagonal, else -1. */
export const cell_loss = (z, matched, B) => softplus(matched ? -z : z) / B;

/** d loss / d z = (sigmoid(z) - target) / B, written so that nothing cancels. */
export const cell_gradient = (z, matched, B) => (matched ? -sigmoid(-z) : sigmoid(z)) / B;

/** -1/B sum_ij log sigmoid(y_ij z_ij): a sum over B x B pairs divided by B, not by B^2. */
export function sigmoid_loss(z) {
  const B = z.shape[0];
  return z.data.reduce((sum, value, i) => sum + cell_loss(value, Math.floor(i / B) === i % B, B), 0);
}

/** The same, block by block, each block alone on its device: [D][D] sums, of `devices` that divide B. */
export function ring_blocks(z, devices) {
  const B = z.shape[0], b = B / devices, sums = Array.from({ length: devices }, () => new Array(devices).fill(0));
  for (let i = 0; i < B; i++)
    for (let j = 0; j < B; j++) sums[Math.floor(i / b)][Math.floor(j / b)] += cell_loss(z.data[i * B + j], i === j, B);
  return sums;
}

/** CLIP's: -1/2B sum_i (log softmax_j(z_ij) at j = i + log softmax_j(z_ji) at j = i). */
export function softmax_loss(z) {
  const B = z.shape[0], line = new Float64Array(B);
  let sum = 0;
  for (const step of [[B, 1], [1, B]])
    for (let i = 0; i < B; i++) {
      for (let j = 0; j < B; j++) line[j] = z.data[i * step[0] + j * step[1]];
      sum -= Math.log(softmax(line)[i]);
    }
  return sum / (2 * B);
}

/** The bias at which the loss of untrained pairs is lowest: one pair of B matches. */
export const best_bias = (B) => -Math.log(B - 1);
