"""The whole forward pass of SigLIP on one page, smallest piece first: gelu_tanh ... siglip.

This is the truth that every kernel is judged by: float64 NumPy, one expression for one idea, no speed tricks, and
nothing else of this project imported. It implements section 3 of arXiv:2303.15343 as big_vision computes it
(`models/vit.py`, `models/proj/image_text/text_transformer.py`, `two_towers.py`), NaFlex of SigLIP 2 (arXiv:2502.14786)
and the options that Hugging Face adds: masks, interpolated positions, a classifier.

The forward pass is the trace: every intermediate is also stored in `trace` under its name. Without a trace it goes
to `FORGET`, which keeps nothing.

Dimensions: N batch, L tokens, D width, H heads, Dh = D / H head width, M mlp width, P patch, V vocabulary.
Parameters: see `npsiglip.params`; `params` maps a name such as "image.blocks.03.attn.q.w" to a float64 array.
Configurations: any object with the fields of `npsiglip.config.SigLIPConfig`.

Masks are bool, [N, L]; a key of a False is not attended to, and each input has at least one True. SigLIP was trained
without any: it attends to padding. Only NaFlex has them, for images with fewer patches than others of a batch.

Left out on purpose: dropout (zero in every released model), float32.
"""

import math

import numpy as np

from npsiglip.reference.positions import interpolate_antialias, interpolate_bicubic


class Forget(dict):
    """A trace that keeps nothing."""

    def __setitem__(self, name, value):
        pass


FORGET = Forget()


def gelu_tanh(x):
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the tanh form, which SigLIP is trained with, not erf."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


erfc = np.vectorize(math.erfc, otypes=[np.float64])  # the C library's, number by number


def gelu_erf(x):
    """0.5 x (1 + erf(x / sqrt(2))), the exact form, which open_clip computes in many models; erfc keeps all digits."""
    return 0.5 * x * erfc(-x / np.sqrt(2.0))


GELU = {"gelu_tanh": gelu_tanh, "gelu_erf": gelu_erf}


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


def attention(params, name, x_q, x_kv, num_heads, trace=FORGET, mask=None):
    """Multi-head attention, softmax(q k^T / sqrt(Dh)) v, of queries [N, Lq, D] to tokens [N, L, D] -> [N, Lq, D]."""
    q = trace[f"{name}.q"] = linear(params, f"{name}.q", x_q)
    k = trace[f"{name}.k"] = linear(params, f"{name}.k", x_kv)
    v = trace[f"{name}.v"] = linear(params, f"{name}.v", x_kv)
    q, k, v = (split_heads(part, num_heads) for part in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])  # [N, H, Lq, L]
    if mask is not None:
        scores = np.where(mask[:, None, None, :], scores, -np.inf)
    probs = trace[f"{name}.probs"] = softmax(scores)
    mix = trace[f"{name}.mix"] = merge_heads(probs @ v)
    out = trace[f"{name}.out"] = linear(params, f"{name}.out", mix)
    return out


def mlp(params, name, x, trace=FORGET, activation="gelu_tanh"):
    """fc2(gelu(fc1(x))): [N, L, D] -> [N, L, M] -> [N, L, D]."""
    h = trace[f"{name}.fc1"] = linear(params, f"{name}.fc1", x)
    h = trace[f"{name}.gelu"] = GELU[activation](h)
    y = trace[f"{name}.fc2"] = linear(params, f"{name}.fc2", h)
    return y


def block(params, name, x, num_heads, eps, trace=FORGET, mask=None, activation="gelu_tanh"):
    """One pre-LN transformer block: x + attention(ln1(x)), then x + mlp(ln2(x))."""
    y = trace[f"{name}.ln1"] = layer_norm(x, params[f"{name}.ln1.scale"], params[f"{name}.ln1.b"], eps)
    y = attention(params, f"{name}.attn", y, y, num_heads, trace, mask)
    x = trace[f"{name}.+attn"] = x + y
    y = trace[f"{name}.ln2"] = layer_norm(x, params[f"{name}.ln2.scale"], params[f"{name}.ln2.b"], eps)
    y = mlp(params, f"{name}.mlp", y, trace, activation)
    x = trace[f"{name}.+mlp"] = x + y
    return x


def blocks(params, tower, x, config, trace=FORGET, mask=None):
    """All blocks of a tower, then the final LayerNorm: [N, L, D] -> [N, L, D]."""
    for i in range(config.depth):
        name, eps = f"{tower}.blocks.{i:02d}", config.layer_norm_eps
        x = block(params, name, x, config.num_heads, eps, trace, mask, config.activation)
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


def map_head(params, name, x, num_heads, eps, trace=FORGET, mask=None, activation="gelu_tanh"):
    """MAP pooling: a learned probe attends to all tokens, then an MLP with residual: [N, L, D] -> [N, D].

    The probe itself is not added to what it attended to: there is one residual here, not two.
    """
    probe = np.broadcast_to(params[f"{name}.probe"], (x.shape[0], 1, x.shape[2]))
    x = attention(params, f"{name}.attn", probe, x, num_heads, trace, mask)
    y = trace[f"{name}.ln"] = layer_norm(x, params[f"{name}.ln.scale"], params[f"{name}.ln.b"], eps)
    x = trace[f"{name}.+mlp"] = x + mlp(params, f"{name}.mlp", y, trace, activation)
    return x[:, 0]


def grid_positions(params, config, rows, columns):
    """Positions of a grid of patches, [rows * columns, D]: those stored, or interpolated where the grid is another.

    Models of one size were trained on one grid, and Hugging Face's `interpolate_pos_encoding` is bicubic. NaFlex was
    trained on all grids, with antialiased bilinear interpolation.
    """
    stored = params["image.pos_embed"]
    if (rows, columns) == (config.grid_size, config.grid_size):
        return stored
    return (interpolate_antialias if config.naflex else interpolate_bicubic)(stored, rows, columns)


def naflex_positions(params, config, shapes, length):
    """[N, L, D] for grids of shapes [N, 2] (rows, columns). What pads an image has the position of its first patch."""
    positions = np.empty((len(shapes), length, config.width))
    for position, (rows, columns) in zip(positions, shapes, strict=True):
        grid = grid_positions(params, config, rows, columns)
        position[:] = grid[0]
        position[: rows * columns] = grid
    return positions


def image_tokens(params, config, patches, positions, trace=FORGET, mask=None):
    """Patches [N, L, P * P * 3] and positions [L, D] or [N, L, D] to tokens [N, L, D], after the final LayerNorm."""
    x = trace["image.patch_embed"] = linear(params, "image.patch_embed", patches)
    x = trace["image.embed"] = x + positions
    return blocks(params, "image", x, config, trace, mask)


def pool(params, config, x, trace=FORGET, mask=None):
    """Tokens to a vector by the MAP head, [N, L, D] -> [N, D]; without a head their mean, or they are the result."""
    if config.mean:
        x = trace["image.pooled"] = x.mean(axis=1)
        return x
    if not config.head:
        return x
    eps, activation = config.layer_norm_eps, config.activation
    x = map_head(params, "image.map_head", x, config.num_heads, eps, trace, mask, activation)
    x = trace["image.pooled"] = x
    return x


def image_tower(params, config, pixels, trace=FORGET):
    """Images to vectors, not normalised: pixels [N, 3, H, W] in [-1, 1] -> [N, D]; `config`: ImageConfig.

    Positions are interpolated where H and W are not those of the configuration.
    """
    pixels = np.asarray(pixels, np.float64)
    rows, columns = pixels.shape[2] // config.patch_size, pixels.shape[3] // config.patch_size
    patches = extract_patches(pixels, config.patch_size)
    x = image_tokens(params, config, patches, grid_positions(params, config, rows, columns), trace)
    return pool(params, config, x, trace)


def naflex_tower(params, config, patches, mask, shapes, trace=FORGET):
    """Images of any shape to vectors, not normalised: -> [N, D]; `config`: ImageConfig with `naflex`.

    patches [N, L, P * P * 3], ordered (row, column, channel); shapes [N, 2], the rows and columns of each image's grid;
    mask [N, L], True for its rows * columns first patches: the others are padding.
    """
    patches, mask = np.asarray(patches, np.float64), np.asarray(mask, bool)
    positions = naflex_positions(params, config, shapes, patches.shape[1])
    x = image_tokens(params, config, patches, positions, trace, mask)
    return pool(params, config, x, trace, mask)


def classify(params, tokens, trace=FORGET, mask=None):
    """The mean of an image's tokens to logits of classes, [N, L, D] -> [N, K]; the MAP head has no part in it."""
    weight = np.ones(tokens.shape[:2]) if mask is None else np.asarray(mask, np.float64)
    mean = trace["image.mean"] = (tokens * weight[:, :, None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    logits = trace["classifier"] = linear(params, "classifier", mean)
    return logits


def text_tower(params, config, ids, trace=FORGET, mask=None):
    """Texts to vectors, not normalised: token ids [N, L] -> [N, D]. `config` is a TextConfig.

    There is no causal mask, and no padding mask unless it is given. The pooled output is the last position, padding or
    not.
    """
    x = params["text.token_embed"][ids]
    x = trace["text.embed"] = x + params["text.pos_embed"][: x.shape[1]]
    x = blocks(params, "text", x, config, trace, mask)
    x = trace["text.pooled"] = x[:, -1]
    x = trace["text.head"] = linear(params, "text.head", x)
    return x


def logits(zimg, ztxt, t_prime, bias):
    """t zimg ztxt^T + bias, with t = exp(t_prime); unit vectors zimg [N, D], ztxt [K, D] -> [N, K]."""
    return np.exp(t_prime) * zimg @ ztxt.T + bias


def siglip(params, config, pixels, ids, trace=FORGET):
    """Images against texts: pixels [N, 3, S, S], ids [K, L] -> logits [N, K] = t zimg ztxt^T + bias.

    sigmoid(logits) is the probability of each pair on its own: rows do not sum to one. `config`: SigLIPConfig.
    """
    zimg = trace["zimg"] = l2_normalize(image_tower(params, config.image, pixels, trace))
    ztxt = trace["ztxt"] = l2_normalize(text_tower(params, config.text, ids, trace))
    result = trace["logits"] = logits(zimg, ztxt, params["t_prime"], params["bias"])
    trace["probs"] = sigmoid(result)
    return result
