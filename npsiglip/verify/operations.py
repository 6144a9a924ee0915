"""The forward pass as a list of operations: each reads taps and parameters, and gives one tap.

`npsiglip.reference.model` is the same on one page, and what this is held to, bit for bit in float64, but for the order
in which a logit is multiplied. Here the operations can be run one by one, on whatever input, in any of the arithmetics
of `arithmetic`, and one of them can be replaced by a mistake (`mistakes`).

Dimensions: N batch, L tokens, D width, H heads, Dh head width, M mlp width, P patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import block_name
from npsiglip.reference.model import GELU, extract_patches, grid_positions, merge_heads, sigmoid, split_heads
from npsiglip.verify.arithmetic import EXACT, F32, Arithmetic

Array = NDArray[Any]

PIXELS, IDS = "image.pixels", "text.ids"


class Op(NamedTuple):
    """An operation: its tap, what it does (`FORWARD`), the taps that it reads, and where its parameters lie."""

    tap: str
    kind: str
    inputs: tuple[str, ...]
    name: str

    @property
    def tower(self) -> str:
        """image, text, or nothing after both."""
        first = self.tap.split(".")[0]
        return {"zimg": "image", "ztxt": "text"}.get(first, first if first in ("image", "text") else "")


class Context:
    """What operations need beside their inputs: the model, and the arithmetic.

    Args:
        config: of the model.
        params: name -> array, of any float type.
        arithmetic: how numbers are multiplied and kept.
    """

    def __init__(self, config: SigLIPConfig, params: Mapping[str, Array], arithmetic: Arithmetic = EXACT) -> None:
        self.config, self.params, self.arithmetic = config, params, arithmetic

    @property
    def image(self) -> ImageConfig:
        """The image tower's configuration."""
        assert self.config.image is not None
        return self.config.image

    @property
    def text(self) -> TextConfig:
        """The text tower's configuration."""
        assert self.config.text is not None
        return self.config.text

    def param(self, name: str) -> Array:
        """A parameter in the arithmetic's type."""
        return self.arithmetic.weight(np.asarray(self.params[name], self.arithmetic.dtype))

    def tower(self, op: Op) -> Any:
        """The configuration of the tower that an operation is in."""
        return self.image if op.tower == "image" else self.text

    def matmul(self, a: Array, b: Array) -> Array:
        """A product."""
        return self.arithmetic.matmul(a, b)

    def linear(self, name: str, x: Array) -> Array:
        """x w + b."""
        return self.matmul(x, self.param(f"{name}.w")) + self.param(f"{name}.b")

    def number(self, x: float) -> Any:
        """A constant in the arithmetic's type, which must not widen what it meets."""
        return self.arithmetic.dtype(x)


Forward = Callable[..., Array]


def patch_embed(c: Context, op: Op, pixels: Array) -> Array:
    """Patches [N, L, P * P * 3] times w, plus b."""
    return c.linear(op.name, extract_patches(pixels, c.image.patch_size))


def grid_of(c: Context, pixels: Array) -> tuple[int, int]:
    """Rows and columns of the patches of pixels [N, 3, H, W]."""
    size = c.image.patch_size
    return pixels.shape[2] // size, pixels.shape[3] // size


def image_embed(c: Context, op: Op, x: Array, pixels: Array) -> Array:
    """x + positions."""
    stored = {"image.pos_embed": np.asarray(c.params["image.pos_embed"], np.float64)}
    positions = grid_positions(stored, c.image, *grid_of(c, pixels))
    return np.asarray(x + positions.astype(c.arithmetic.dtype))


def text_embed(c: Context, op: Op, ids: Array) -> Array:
    """Rows of the table, plus positions."""
    rows = np.asarray(c.params["text.token_embed"][ids], c.arithmetic.dtype)
    return rows + c.param("text.pos_embed")[: ids.shape[1]]


def layer_norm(c: Context, op: Op, x: Array) -> Array:
    """(x - mean) / sqrt(var + eps) scale + b."""
    return normalised(c, op, x, c.tower(op).layer_norm_eps)


def normalised(c: Context, op: Op, x: Array, eps: float, centre: bool = True, ddof: int = 0) -> Array:
    """A LayerNorm with these settings."""
    scale, b = c.param(f"{op.name}.scale"), c.param(f"{op.name}.b")
    mean = x.mean(axis=-1, keepdims=True) if centre else c.number(0)
    if c.arithmetic.one_pass:
        var = (x * x).mean(axis=-1, keepdims=True) - mean * mean
    else:
        var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    if ddof:
        var = var * c.number(x.shape[-1] / (x.shape[-1] - ddof))
    return np.asarray((x - mean) / np.sqrt(var + c.number(eps)) * scale + b)


def linear(c: Context, op: Op, x: Array) -> Array:
    """x w + b."""
    return c.linear(op.name, x)


def probe_query(c: Context, op: Op, tokens: Array) -> Array:
    """The probe's query, the same for every image: [N, 1, D]."""
    probe = np.broadcast_to(c.param("image.map_head.probe"), (len(tokens), 1, tokens.shape[2]))
    return c.linear(op.name, probe)


def probs(c: Context, op: Op, q: Array, k: Array) -> Array:
    """softmax(q k^T / sqrt(Dh)): [N, H, Lq, L]."""
    return softmax(scores(c, op, q, k))


def scores(c: Context, op: Op, q: Array, k: Array) -> Array:
    """q k^T / sqrt(Dh)."""
    heads = c.tower(op).num_heads
    q, k = split_heads(q, heads), split_heads(k, heads)
    return np.asarray(c.matmul(q, k.transpose(0, 1, 3, 2)) / c.number(np.sqrt(q.shape[-1])))


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def mix(c: Context, op: Op, weights: Array, v: Array) -> Array:
    """probs v, heads beside each other again."""
    return np.asarray(merge_heads(c.matmul(weights, split_heads(v, c.tower(op).num_heads))))


def residual(c: Context, op: Op, x: Array, y: Array) -> Array:
    """x + y."""
    return np.asarray(x + y)


def gelu(c: Context, op: Op, x: Array) -> Array:
    """The tower's form of GELU."""
    form = c.tower(op).activation
    if c.arithmetic.single and form == "gelu_tanh":
        u = F32(np.sqrt(2 / np.pi)) * (x + F32(0.044715) * x * x * x)
        return np.asarray(F32(0.5) * x * (F32(1) + np.tanh(u)))
    return activated(c, x, GELU[form])


def activated(c: Context, x: Array, function: Callable[[Array], Array]) -> Array:
    """A function of numbers, computed in double precision and rounded."""
    return np.asarray(function(np.asarray(x, np.float64)), c.arithmetic.dtype)


def first_token(c: Context, op: Op, x: Array) -> Array:
    """The one token that the MAP head gives."""
    return x[:, 0]


def mean(c: Context, op: Op, x: Array) -> Array:
    """The mean of all tokens."""
    return np.asarray(x.mean(axis=1))


def last_token(c: Context, op: Op, x: Array) -> Array:
    """The last position."""
    return x[:, -1]


def unit(c: Context, op: Op, x: Array) -> Array:
    """x / |x|; ports keep the norm."""
    return np.asarray(x / c.arithmetic.store(np.sqrt((x * x).sum(axis=-1, keepdims=True))))


def logits(c: Context, op: Op, zimg: Array, ztxt: Array) -> Array:
    """t zimg ztxt^T + bias; ports keep the cosines, then the product."""
    store = c.arithmetic.store
    cosines = store(c.matmul(zimg, ztxt.T))
    return np.asarray(store(cosines * store(np.exp(c.param("t_prime")))) + c.param("bias"))


def pair_probs(c: Context, op: Op, x: Array) -> Array:
    """sigmoid(x)."""
    return activated(c, x, sigmoid)


FORWARD: dict[str, Forward] = {
    function.__name__: function
    for function in (
        patch_embed, image_embed, text_embed, layer_norm, linear, probe_query, probs, mix, residual, gelu, first_token,
        mean, last_token, unit, logits, pair_probs,
    )
}  # fmt: skip


def _attention(name: str, x: str, query: str | None) -> list[Op]:
    """Attention of queries to tokens; without a query, that of the probe."""
    part = f"{name}.attn"
    q = Op(f"{part}.q", "linear", (query,), f"{part}.q") if query else Op(f"{part}.q", "probe_query", (x,), f"{part}.q")
    return [
        q,
        Op(f"{part}.k", "linear", (x,), f"{part}.k"),
        Op(f"{part}.v", "linear", (x,), f"{part}.v"),
        Op(f"{part}.probs", "probs", (f"{part}.q", f"{part}.k"), part),
        Op(f"{part}.mix", "mix", (f"{part}.probs", f"{part}.v"), part),
        Op(f"{part}.out", "linear", (f"{part}.mix",), f"{part}.out"),
    ]


def _mlp(name: str, x: str, stream: str) -> list[Op]:
    """fc2(gelu(fc1(x))), added to the stream."""
    return [
        Op(f"{name}.mlp.fc1", "linear", (x,), f"{name}.mlp.fc1"),
        Op(f"{name}.mlp.gelu", "gelu", (f"{name}.mlp.fc1",), f"{name}.mlp"),
        Op(f"{name}.mlp.fc2", "linear", (f"{name}.mlp.gelu",), f"{name}.mlp.fc2"),
        Op(f"{name}.+mlp", "residual", (stream, f"{name}.mlp.fc2"), name),
    ]


def block(name: str, x: str) -> list[Op]:
    """A block whose input is the tap x; its last tap is `<name>.+mlp`."""
    return [
        Op(f"{name}.ln1", "layer_norm", (x,), f"{name}.ln1"),
        *_attention(name, f"{name}.ln1", f"{name}.ln1"),
        Op(f"{name}.+attn", "residual", (x, f"{name}.attn.out"), name),
        Op(f"{name}.ln2", "layer_norm", (f"{name}.+attn",), f"{name}.ln2"),
        *_mlp(name, f"{name}.ln2", f"{name}.+attn"),
    ]


def _blocks(tower: str, depth: int) -> list[Op]:
    found, x = [], f"{tower}.embed"
    for i in range(depth):
        found += block(block_name(tower, i), x)
        x = found[-1].tap
    return [*found, Op(f"{tower}.final_ln", "layer_norm", (x,), f"{tower}.final_ln")]


def _image(config: SigLIPConfig) -> list[Op]:
    image, head = config.image, "image.map_head"
    assert image is not None
    found = [
        Op("image.patch_embed", "patch_embed", (PIXELS,), "image.patch_embed"),
        Op("image.embed", "image_embed", ("image.patch_embed", PIXELS), "image"),
        *_blocks("image", image.depth),
    ]
    if image.head:
        found += _attention(head, "image.final_ln", None)
        found += [Op(f"{head}.ln", "layer_norm", (f"{head}.attn.out",), f"{head}.ln")]
        found += _mlp(head, f"{head}.ln", f"{head}.attn.out")
        found += [Op("image.pooled", "first_token", (f"{head}.+mlp",), head)]
    elif image.mean:
        found += [Op("image.pooled", "mean", ("image.final_ln",), "image")]
    if image.head or image.mean:
        found += [Op("zimg", "unit", ("image.pooled",), "image")]
    return found


def _text(config: SigLIPConfig) -> list[Op]:
    assert config.text is not None
    return [
        Op("text.embed", "text_embed", (IDS,), "text"),
        *_blocks("text", config.text.depth),
        Op("text.pooled", "last_token", ("text.final_ln",), "text"),
        Op("text.head", "linear", ("text.pooled",), "text.head"),
        Op("ztxt", "unit", ("text.head",), "text"),
    ]


def operations(config: SigLIPConfig, images: bool = True, texts: bool = True) -> list[Op]:
    """All operations of a model in their order, of the towers that have input."""
    images, texts = images and config.image is not None, texts and config.text is not None
    found = (_image(config) if images else []) + (_text(config) if texts else [])
    if images and texts:
        found += [Op("logits", "logits", ("zimg", "ztxt"), ""), Op("probs", "pair_probs", ("logits",), "")]
    return found


def run(c: Context, op: Op, env: Mapping[str, Array], forward: Forward | None = None) -> Array:
    """The operation's tap, from the taps in `env`, in the arithmetic of the context."""
    kind, inputs = c.arithmetic.dtype, []
    for tap in op.inputs:
        x = env[tap]
        inputs.append(x if tap == IDS else np.asarray(x, kind))
    found = (forward or FORWARD[op.kind])(c, op, *inputs)
    return c.arithmetic.store(found) if not c.arithmetic.keeps or op.kind in c.arithmetic.keeps else found


def forward(c: Context, ops: Sequence[Op], inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Every tap and its value, in order; what no later operation reads is let go.

    Args:
        c: the model, and the arithmetic.
        ops: all of its operations, or the first of them.
        inputs: `image.pixels`, `text.ids`, or both.
    """
    env, last = dict(inputs), {tap: i for i, op in enumerate(ops) for tap in op.inputs}
    for i, op in enumerate(ops):
        env[op.tap] = run(c, op, env)
        yield op.tap, env[op.tap]
        for tap in [tap for tap in env if last.get(tap, -1) <= i]:
            del env[tap]
