"""The whole forward pass of SigLIP on one page, smallest piece first: gelu_tanh ... siglip.

This is the truth that every kernel is judged by: float64 NumPy, one expression for one idea, no speed tricks, and
nothing else of this project imported. It implements section 3 of arXiv:2303.15343 as big_vision computes it
(`models/vit.py`, `models/proj/image_text/text_transformer.py`, `two_towers.py`).

The forward pass is the trace: every intermediate is also stored in `trace` under its name. Without a trace it goes
to `FORGET`, which keeps nothing.

Dimensions: N batch, L tokens, D width, H heads, Dh = D / H head width, M mlp width, P patch, V vocabulary.
Parameters: see `npsiglip.params`; `params` maps a name such as "image.blocks.03.attn.q.w" to a float64 array.
Configurations: any object with the fields of `npsiglip.config.SigLIPConfig`.

Left out on purpose: dropout (zero in every released model), attention masks (SigLIP attends to padding), float32.
"""

import numpy as np


class Forget(dict):
    """A trace that keeps nothing."""

    def __setitem__(self, name, value):
        pass


FORGET = Forget()


def gelu_tanh(x):
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the tanh form, which SigLIP is trained with, not erf."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis, shifted by the maximum so that exp cannot overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    """1 / (1 + exp(-x)), written so that exp cannot overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def l2_normalize(x):
    """X / |x| over the last axis. No epsilon, as in Hugging Face; big_vision adds 1e-8 to |x|."""
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))


def layer_norm(x, scale, b, eps):
    """(x - mean) / sqrt(var + eps) * scale + b over the last axis, var without Bessel's correction."""
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * scale + b


def linear(params, name, x):
    """X w + b."""
    return x @ params[f"{name}.w"] + params[f"{name}.b"]


def split_heads(x, num_heads):
    """[N, L, D] -> [N, H, L, Dh]."""
    n, length, width = x.shape
    return x.reshape(n, length, num_heads, width // num_heads).transpose(0, 2, 1, 3)


def merge_heads(x):
    """[N, H, L, Dh] -> [N, L, D]."""
    n, num_heads, length, head_dim = x.shape
    return x.transpose(0, 2, 1, 3).reshape(n, length, num_heads * head_dim)


def attention(params, name, x_q, x_kv, num_heads, trace=FORGET):
    """Multi-head attention, softmax(q k^T / sqrt(Dh)) v, of queries [N, Lq, D] to tokens [N, L, D] -> [N, Lq, D]."""
    q = trace[f"{name}.q"] = linear(params, f"{name}.q", x_q)
    k = trace[f"{name}.k"] = linear(params, f"{name}.k", x_kv)
    v = trace[f"{name}.v"] = linear(params, f"{name}.v", x_kv)
    q, k, v = (split_heads(part, num_heads) for part in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])  # [N, H, Lq, L]
    probs = trace[f"{name}.probs"] = softmax(scores)
    mix = trace[f"{name}.mix"] = merge_heads(probs @ v)
    out = trace[f"{name}.out"] = linear(params, f"{name}.out", mix)
    return out


def mlp(params, name, x, trace=FORGET):
    """fc2(gelu_tanh(fc1(x))): [N, L, D] -> [N, L, M] -> [N, L, D]."""
    h = trace[f"{name}.fc1"] = linear(params, f"{name}.fc1", x)
    h = trace[f"{name}.gelu"] = gelu_tanh(h)
    y = trace[f"{name}.fc2"] = linear(params, f"{name}.fc2", h)
    return y


def block(params, name, x, num_heads, eps, trace=FORGET):
    """One pre-LN transformer block: x + attention(ln1(x)), then x + mlp(ln2(x))."""
    y = trace[f"{name}.ln1"] = layer_norm(x, params[f"{name}.ln1.scale"], params[f"{name}.ln1.b"], eps)
    y = attention(params, f"{name}.attn", y, y, num_heads, trace)
    x = trace[f"{name}.+attn"] = x + y
    y = trace[f"{name}.ln2"] = layer_norm(x, params[f"{name}.ln2.scale"], params[f"{name}.ln2.b"], eps)
    y = mlp(params, f"{name}.mlp", y, trace)
    x = trace[f"{name}.+mlp"] = x + y
    return x


def blocks(params, tower, x, config, trace=FORGET):
    """All blocks of a tower, then the final LayerNorm: [N, L, D] -> [N, L, D]."""
    for i in range(config.depth):
        x = block(params, f"{tower}.blocks.{i:02d}", x, config.num_heads, config.layer_norm_eps, trace)
    name = f"{tower}.final_ln"
    x = trace[name] = layer_norm(x, params[f"{name}.scale"], params[f"{name}.b"], config.layer_norm_eps)
    return x


def extract_patches(pixels, patch_size):
    """[N, 3, H, W] -> [N, L, P * P * 3]: patches row by row, each ordered (row, column, channel).

    What the patch does not divide is left out at the right and at the bottom, as a VALID convolution does.
    """
    n, channels, height, width = pixels.shape
    rows, columns = height // patch_size, width // patch_size
    x = pixels[:, :, : rows * patch_size, : columns * patch_size]
    x = x.reshape(n, channels, rows, patch_size, columns, patch_size)
    return x.transpose(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, patch_size * patch_size * channels)


def map_head(params, name, x, num_heads, eps, trace=FORGET):
    """MAP pooling: a learned probe attends to all tokens, then an MLP with residual: [N, L, D] -> [N, D].

    The probe itself is not added to what it attended to: there is one residual here, not two.
    """
    probe = np.broadcast_to(params[f"{name}.probe"], (x.shape[0], 1, x.shape[2]))
    x = attention(params, f"{name}.attn", probe, x, num_heads, trace)
    y = trace[f"{name}.ln"] = layer_norm(x, params[f"{name}.ln.scale"], params[f"{name}.ln.b"], eps)
    x = trace[f"{name}.+mlp"] = x + mlp(params, f"{name}.mlp", y, trace)
    return x[:, 0]


def image_tower(params, config, pixels, trace=FORGET):
    """Images to vectors, not normalised: pixels [N, 3, S, S] in [-1, 1] -> [N, D]; `config`: ImageConfig."""
    x = extract_patches(np.asarray(pixels, np.float64), config.patch_size)
    x = trace["image.patch_embed"] = linear(params, "image.patch_embed", x)
    x = trace["image.embed"] = x + params["image.pos_embed"]
    x = blocks(params, "image", x, config, trace)
    x = map_head(params, "image.map_head", x, config.num_heads, config.layer_norm_eps, trace)
    x = trace["image.pooled"] = x
    return x


def text_tower(params, config, ids, trace=FORGET):
    """Texts to vectors, not normalised: token ids [N, L] -> [N, D]. `config` is a TextConfig.

    There is no causal mask and no padding mask. The pooled output is the last position, padding or not.
    """
    x = params["text.token_embed"][ids]
    x = trace["text.embed"] = x + params["text.pos_embed"][: x.shape[1]]
    x = blocks(params, "text", x, config, trace)
    x = trace["text.pooled"] = x[:, -1]
    x = trace["text.head"] = linear(params, "text.head", x)
    return x


def siglip(params, config, pixels, ids, trace=FORGET):
    """Images against texts: pixels [N, 3, S, S], ids [K, L] -> logits [N, K] = t zimg ztxt^T + bias.

    sigmoid(logits) is the probability of each pair on its own: rows do not sum to one. `config`: SigLIPConfig.
    """
    zimg = trace["zimg"] = l2_normalize(image_tower(params, config.image, pixels, trace))
    ztxt = trace["ztxt"] = l2_normalize(text_tower(params, config.text, ids, trace))
    logits = trace["logits"] = np.exp(params["t_prime"]) * zimg @ ztxt.T + params["bias"]
    trace["probs"] = sigmoid(logits)
    return logits
