"""The gradient of every piece of model.py, in the same order and under the same names: gelu_tanh ... siglip.

This is the truth that every backward kernel is judged by: float64 NumPy, one expression for one idea. Only the
forward pass and the losses of this folder are imported. The published training code (big_vision) has no backward
pass to compare with, it differentiates its forward pass; so every equation is derived from model.py, and checked
against torch's autograd in double precision and against finite differences.

How to read it: d_y stands for d loss / d y, an array of the shape of y. A piece takes what its forward took, then
d_y of its result, and returns d_x of its input. What the forward pass computed comes out of its `trace`; what a
trace does not hold (the mean and deviation of a LayerNorm, a tanh, patches) is computed again. Gradients of
parameters are stored in `grads` under the parameters' names. The model uses each parameter once, so they are stored,
not added up.

Dimensions: N batch, L tokens, D width, H heads, Dh = D / H head width, M mlp width, P patch, V vocabulary.

Left out on purpose: what is left out of model.py; second derivatives; saving memory (a trace keeps everything).
"""

import numpy as np

from npsiglip.reference import model
from npsiglip.reference.loss import sigmoid_loss, softmax_loss
from npsiglip.reference.model import merge_heads, split_heads


def gelu_tanh(x, d_y):
    """y = 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3).

    dy/dx = 0.5 (1 + tanh u) + 0.5 x (1 - tanh^2 u) du/dx, du/dx = sqrt(2/pi) (1 + 3 0.044715 x^2)
    """
    tanh = np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))
    du_dx = np.sqrt(2.0 / np.pi) * (1.0 + 3.0 * 0.044715 * x**2)
    return d_y * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh**2) * du_dx)


def gelu_erf(x, d_y):
    """y = x Phi(x), Phi(x) = 0.5 erfc(-x / sqrt(2)), whose derivative is the normal density.

    dy/dx = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)
    """
    return d_y * (0.5 * model.erfc(-x / np.sqrt(2.0)) + x * np.exp(-0.5 * x * x) / np.sqrt(2.0 * np.pi))


GELU = {"gelu_tanh": gelu_tanh, "gelu_erf": gelu_erf}


def softmax(p, d_p):
    """p_i = exp(x_i) / sum_j exp(x_j), so dp_i/dx_j = p_i ([i = j] - p_j); takes the result p, not x.

    d_x_j = p_j (d_p_j - sum_i d_p_i p_i)
    """
    return p * (d_p - (d_p * p).sum(axis=-1, keepdims=True))


def l2_normalize(x, d_z):
    """z = x / |x|. What d_z has along z is lost, since the length of z cannot change; the rest shrinks like z.

    d_x = (d_z - z (z . d_z)) / |x|
    """
    length = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    z = x / length
    return (d_z - z * (z * d_z).sum(axis=-1, keepdims=True)) / length


def layer_norm(x, scale, eps, d_y):
    """y = n scale + b, n = (x - mean) / s, s = sqrt(var + eps) -> d_x, d_scale, d_b.

    mean and s depend on x too: moving all of x moves n by nothing, and stretching x moves it by hardly anything.

    d_x = (d_n - mean(d_n) - n mean(d_n n)) / s, d_n = d_y scale
    """
    mean = x.mean(axis=-1, keepdims=True)
    s = np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + eps)
    n = (x - mean) / s
    d_n = d_y * scale
    d_x = (d_n - d_n.mean(axis=-1, keepdims=True) - n * (d_n * n).mean(axis=-1, keepdims=True)) / s
    tokens = tuple(range(x.ndim - 1))  # all axes but the last
    return d_x, (d_y * n).sum(axis=tokens), d_y.sum(axis=tokens)


def linear(params, name, x, d_y, grads):
    """y = x w + b: d_x = d_y w^T, d_w = x^T d_y, d_b = sum d_y, the last two over all tokens."""
    rows, d_rows = x.reshape(-1, x.shape[-1]), d_y.reshape(-1, d_y.shape[-1])  # [N, L, in] -> [N L, in]
    grads[f"{name}.w"] = rows.T @ d_rows
    grads[f"{name}.b"] = d_rows.sum(axis=0)
    return d_y @ params[f"{name}.w"].T


def norm(params, name, x, eps, d_y, grads):
    """`layer_norm` under its name, as `linear` is: d_x, and d_scale and d_b into `grads`."""
    d_x, grads[f"{name}.scale"], grads[f"{name}.b"] = layer_norm(x, params[f"{name}.scale"], eps, d_y)
    return d_x


def attention(params, name, x_q, x_kv, num_heads, trace, d_out, grads):
    """out = mix w + b, mix = p v, p = softmax(scores), scores = q k^T / sqrt(Dh) -> d_x_q, d_x_kv.

    d_p = d_mix v^T, d_v = p^T d_mix; through softmax; d_q = d_scores k / sqrt(Dh), d_k = d_scores^T q / sqrt(Dh)

    The bias of k adds one number to all scores of a query, which softmax does not see: its gradient is zero, and what
    is computed for it is rounding.
    """
    d_mix = split_heads(linear(params, f"{name}.out", trace[f"{name}.mix"], d_out, grads), num_heads)
    q, k, v = (split_heads(trace[f"{name}.{part}"], num_heads) for part in "qkv")  # [N, L, D] -> [N, H, L, Dh]
    probs = trace[f"{name}.probs"]  # [N, H, Lq, L]
    d_v = probs.transpose(0, 1, 3, 2) @ d_mix
    d_scores = softmax(probs, d_mix @ v.transpose(0, 1, 3, 2)) / np.sqrt(q.shape[-1])
    d_q, d_k = d_scores @ k, d_scores.transpose(0, 1, 3, 2) @ q
    d_q, d_k, d_v = (merge_heads(part) for part in (d_q, d_k, d_v))
    d_x_q = linear(params, f"{name}.q", x_q, d_q, grads)
    d_x_kv = linear(params, f"{name}.k", x_kv, d_k, grads) + linear(params, f"{name}.v", x_kv, d_v, grads)
    return d_x_q, d_x_kv


def mlp(params, name, x, trace, d_y, grads, activation="gelu_tanh"):
    """y = fc2(gelu(fc1(x))), backwards: [N, L, D] -> [N, L, M] -> [N, L, D]."""
    d_h = linear(params, f"{name}.fc2", trace[f"{name}.gelu"], d_y, grads)
    d_h = GELU[activation](trace[f"{name}.fc1"], d_h)
    return linear(params, f"{name}.fc1", x, d_h, grads)


def block(params, name, x, num_heads, eps, trace, d_y, grads, activation="gelu_tanh"):
    """y = r + mlp(ln2(r)), r = x + attention(ln1(x)): at each sum d_y goes both ways, unchanged."""
    d_ln2 = mlp(params, f"{name}.mlp", trace[f"{name}.ln2"], trace, d_y, grads, activation)
    d_r = d_y + norm(params, f"{name}.ln2", trace[f"{name}.+attn"], eps, d_ln2, grads)
    ln1 = trace[f"{name}.ln1"]
    d_q, d_kv = attention(params, f"{name}.attn", ln1, ln1, num_heads, trace, d_r, grads)
    return d_r + norm(params, f"{name}.ln1", x, eps, d_q + d_kv, grads)


def blocks(params, tower, x, config, trace, d_y, grads):
    """The final LayerNorm, then the blocks from the last to the first: [N, L, D] -> [N, L, D]."""
    names = [f"{tower}.blocks.{i:02d}" for i in range(config.depth)]
    streams = [x, *(trace[f"{name}.+mlp"] for name in names)]  # what goes into block i, and out of the last one
    d_x = norm(params, f"{tower}.final_ln", streams[-1], config.layer_norm_eps, d_y, grads)
    for name, stream in reversed(list(zip(names, streams, strict=False))):
        eps, activation = config.layer_norm_eps, config.activation
        d_x = block(params, name, stream, config.num_heads, eps, trace, d_x, grads, activation)
    return d_x


def extract_patches(shape, patch_size, d_patches):
    """Put each number back where it came from: [N, L, P * P * 3] -> [N, 3, H, W], the `shape` of the pixels.

    Pixels that were left out at the right and at the bottom have no influence: zero.
    """
    n, channels, height, width = shape
    rows, columns = height // patch_size, width // patch_size
    d_x = d_patches.reshape(n, rows, columns, patch_size, patch_size, channels).transpose(0, 5, 1, 3, 2, 4)
    d_pixels = np.zeros(shape)
    d_pixels[:, :, : rows * patch_size, : columns * patch_size] = d_x.reshape(
        n, channels, rows * patch_size, columns * patch_size
    )
    return d_pixels


def map_head(params, name, x, num_heads, eps, trace, d_y, grads, activation="gelu_tanh"):
    """y = a + mlp(ln(a)), a = attention(probe, x): [N, D] -> [N, L, D]; the images share one probe, so d is a sum."""
    d_y = d_y[:, None]
    d_ln = mlp(params, f"{name}.mlp", trace[f"{name}.ln"], trace, d_y, grads, activation)
    d_a = d_y + norm(params, f"{name}.ln", trace[f"{name}.attn.out"], eps, d_ln, grads)
    probe = np.broadcast_to(params[f"{name}.probe"], (x.shape[0], 1, x.shape[2]))
    d_probe, d_x = attention(params, f"{name}.attn", probe, x, num_heads, trace, d_a, grads)
    grads[f"{name}.probe"] = d_probe.sum(axis=(0, 1))
    return d_x


def image_tower(params, config, pixels, trace, d_y, grads):
    """[N, D] -> the gradient of the pixels [N, 3, S, S]: which of them the loss looks at; `config`: ImageConfig."""
    name, eps, activation = "image.map_head", config.layer_norm_eps, config.activation
    d_x = map_head(params, name, trace["image.final_ln"], config.num_heads, eps, trace, d_y, grads, activation)
    d_x = blocks(params, "image", trace["image.embed"], config, trace, d_x, grads)
    grads["image.pos_embed"] = d_x.sum(axis=0)
    patches = model.extract_patches(np.asarray(pixels, np.float64), config.patch_size)
    d_patches = linear(params, "image.patch_embed", patches, d_x, grads)
    return extract_patches(pixels.shape, config.patch_size, d_patches)


def text_tower(params, config, ids, trace, d_y, grads):
    """[N, D] -> the gradient of the tokens' vectors [N, L, D], ids themselves having none. `config`: TextConfig.

    A token's vector gets the sum over all places where it stands (np.add.at adds up where ids repeat, += would not),
    and zero where it stands nowhere; so do the positions behind the end of a shorter text.
    """
    d_x = np.zeros_like(trace["text.final_ln"])
    d_x[:, -1] = linear(params, "text.head", trace["text.pooled"], d_y, grads)
    d_x = blocks(params, "text", trace["text.embed"], config, trace, d_x, grads)
    grads["text.pos_embed"] = np.zeros_like(params["text.pos_embed"])
    grads["text.pos_embed"][: d_x.shape[1]] = d_x.sum(axis=0)
    grads["text.token_embed"] = np.zeros_like(params["text.token_embed"])
    np.add.at(grads["text.token_embed"], ids, d_x)
    return d_x


def towers(params, config, pixels, ids, trace, d_zimg, d_ztxt, grads):
    """Both towers from their unit vectors down -> d_pixels [N, 3, S, S], d_tokens [K, L, D]."""
    d_image = l2_normalize(trace["image.pooled"], d_zimg)
    d_text = l2_normalize(trace["text.head"], d_ztxt)
    d_pixels = image_tower(params, config.image, pixels, trace, d_image, grads)
    return d_pixels, text_tower(params, config.text, ids, trace, d_text, grads)


def siglip(params, config, pixels, ids, trace, d_logits, grads):
    """logits = t s + bias, s = zimg ztxt^T, t = exp(t_prime): [N, K] -> d_pixels, d_tokens, by any loss of logits.

    d_zimg = t d_logits ztxt, d_ztxt = t d_logits^T zimg, d_bias = sum d_logits, d_t_prime = t sum d_logits s
    """
    zimg, ztxt, t = trace["zimg"], trace["ztxt"], np.exp(params["t_prime"])
    grads["t_prime"] = t * (d_logits * (zimg @ ztxt.T)).sum()
    grads["bias"] = d_logits.sum()
    return towers(params, config, pixels, ids, trace, t * d_logits @ ztxt, t * d_logits.T @ zimg, grads)


LOSSES = {"sigmoid": sigmoid_loss, "softmax": softmax_loss}


def siglip_loss_and_gradients(params, config, pixels, ids, loss="sigmoid"):
    """One step of training but for the step: the loss of N matched pairs, and its gradient by every parameter.

    Args:
        params: name -> float64 array, as for `model.siglip`.
        config: SigLIPConfig.
        pixels: [N, 3, S, S] in [-1, 1].
        ids: [N, L]; text i belongs to image i.
        loss: "sigmoid" (SigLIP) or "softmax" (CLIP; it does not depend on bias, whose gradient is zero).

    Returns:
        The loss, and a dict of gradients: the names, shapes and order of `params`.

    Raises:
        ValueError: another loss, or unequal numbers of images and texts.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    trace, grads = {}, {}
    model.siglip(params, config, pixels, ids, trace)
    result = LOSSES[loss](trace["zimg"], trace["ztxt"], params["t_prime"], params["bias"])
    towers(params, config, pixels, ids, trace, result.d_zimg, result.d_ztxt, grads)
    grads["t_prime"], grads["bias"] = np.asarray(result.d_t_prime), np.asarray(result.d_bias)
    return result.loss, {name: grads[name] for name in params}
