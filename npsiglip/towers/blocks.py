"""What both towers are built of, on Numba kernels: blocks, work buffers, passes that are recorded and repeated.

With `npsiglip.towers.image` and `npsiglip.towers.text`: `npsiglip.reference.model` line by line, with packed weights. A
tower maps arrays to arrays. The residual stream is float32, [N * L, D]; what linear layers read is in their element
type (`npsiglip.towers.layers`). q, k and v (and the MAP head's k and v) come from one product each. Work buffers are
allocated once for a shape. The results have the same bits for any number of threads and any batch.
Dimensions: N batch, L tokens, D width, H heads, M mlp width.

Left out: choosing what to run on, checking input, normalising embeddings; that is `npsiglip.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from npsiglip.config import ImageConfig, TextConfig
from npsiglip.kernels import attention
from npsiglip.kernels.pack import take_rows
from npsiglip.kernels.tasks import Program, recording
from npsiglip.params import block_name
from npsiglip.towers.layers import Array, Layers, Matrix, Room
from npsiglip.trace import FORGET, Forget, Trace

ALL_VALID = np.empty((0, 0), np.uint8)
SHAPES_KEPT = 3  # by one tower: full passes, the rest of a batch, single inputs


class Buffers:
    """Work arrays of one tower for one shape of input, used again by every block and every pass."""

    def __init__(self, n: int, length: int, config: ImageConfig | TextConfig, dtype: str, room: Room) -> None:
        rows, width = n * length, config.width
        self.n, self.length, self.num_heads = n, length, config.num_heads
        self.valid = ALL_VALID
        self.x = room.array((rows, width), np.float32)
        self.y = Matrix(rows, width, dtype, room=room)
        in_pairs = dtype != "float32" and width // config.num_heads % 2 == 0  # bfloat16, two in a step
        self.qkv = room.array((rows, 3 * width), np.uint16 if in_pairs else np.float32)
        self.mlp = Matrix(rows, config.mlp_dim, dtype, room=room)


class Block:
    """One pre-LN transformer block."""

    def __init__(self, layers: Layers, name: str, eps: float, gelu: str) -> None:
        self.name = name
        self.ln1 = layers.layer_norm(f"{name}.ln1", eps)
        self.qkv = layers.linear(f"{name}.attn", layers.dtype, ("q", "k", "v"))
        self.out = layers.linear(f"{name}.attn.out", layers.dtype)
        self.ln2 = layers.layer_norm(f"{name}.ln2", eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1", layers.dtype, gelu=gelu)
        self.fc2 = layers.linear(f"{name}.mlp.fc2", layers.dtype)

    def __call__(self, work: Buffers, rest: Buffers, trace: Forget) -> None:
        """X = work.x becomes x + attention(ln1(x)), then x + mlp(ln2(x)), in rest.x.

        `rest` is `work`; or it holds only the last token of each input: then the others are left as they are.
        """
        self.ln1(work.x, work.y, trace)
        self.qkv(work.y, work.qkv, FORGET)
        trace.parts(f"{self.name}.attn", "qkv", work.qkv)
        first = work.length - rest.length
        probs = trace.room(f"{self.name}.attn.probs", (work.n, work.num_heads, rest.length, work.length))
        attention.attention(work.qkv, work.length, work.num_heads, first, work.valid, probs, rest.y.out)
        trace[f"{self.name}.attn.mix"] = rest.y
        rest.y.ready()
        x = rest.x
        if rest is not work:
            take_rows(work.x, work.length, first, x)
        self.out(rest.y, x, trace, residual=x)
        trace[f"{self.name}.+attn"] = x
        self.ln2(x, rest.y, trace)
        self.fc1(rest.y, rest.mlp.out, trace, gelu=True)
        trace[f"{self.name}.mlp.gelu"] = rest.mlp
        rest.mlp.ready()
        self.fc2(rest.mlp, x, trace, residual=x)
        trace[f"{self.name}.+mlp"] = x


class Blocks:
    """All blocks of a tower and the final LayerNorm."""

    def __init__(self, layers: Layers, tower: str, config: ImageConfig | TextConfig) -> None:
        self.config, self.dtype, self.outer = config, layers.dtype, layers.outer
        eps, gelu = config.layer_norm_eps, config.activation
        self.blocks = [Block(layers, block_name(tower, i), eps, gelu) for i in range(config.depth)]
        self.final_ln = layers.layer_norm(f"{tower}.final_ln", config.layer_norm_eps)

    def buffers(self, n: int, length: int, room: Room) -> Buffers:
        """Work arrays for n inputs of `length` tokens."""
        return Buffers(n, length, self.config, self.dtype, room)

    def __call__(self, work: Buffers, rest: Buffers, out: Matrix, trace: Forget) -> Matrix:
        """The tokens in work.x to normalised tokens [N * L, D]; the last block and LayerNorm of `rest` only."""
        for block in self.blocks[:-1]:
            block(work, work, trace)
        self.blocks[-1](work, rest, trace)
        return self.final_ln(rest.x, out, trace)


class Kept:
    """The last few results of a function of numbers: passes, which are made once for a shape."""

    def __init__(self, make: Callable[..., tuple[Any, Pass]]) -> None:
        self.make = make
        self._kept: dict[tuple[int, ...], tuple[Any, Pass]] = {}

    def __call__(self, *shape: int) -> tuple[Any, Pass]:
        """What is kept for these numbers, or made."""
        result = self._kept.pop(shape, None) or self.make(*shape)
        self._kept[shape] = result
        if len(self._kept) > SHAPES_KEPT:
            del self._kept[next(iter(self._kept))]  # the one that was not used for longest
        return result


class Pass:
    """A way through a tower for one shape of input: work arrays, and the operations on them.

    Kernels are called by `body` from Python: with a trace, and in a tower's first pass, which lets every layer pack its
    weights in turn. Later passes repeat what one of them did, without Python (`npsiglip.kernels.tasks`).
    """

    def __init__(self, body: Callable[[Forget], Array]) -> None:
        self._body = body
        self._program: Program | None = None
        self._result: Array = np.empty(0, np.float32)

    def __call__(self, trace: Forget, repeat: bool) -> Array:
        """Do all operations; the result is the caller's."""
        if isinstance(trace, Trace) or not repeat:
            return self._body(trace).copy()
        if self._program is None:
            program = Program()
            with recording(program):
                self._result = self._body(FORGET)
            self._program = program  # a recording that was cut short is none
        self._program.run()
        return self._result.copy()


class Tower:
    """What both towers share: layers that pack their weights, passes that are kept."""

    def __init__(self, layers: Layers, make_pass: Callable[..., tuple[Any, Pass]]) -> None:
        self.linears, self.outer = layers.linears, layers.outer
        self.passes = Kept(make_pass)
        self._used = False

    def keep(self) -> bool:
        """Whether this is not the first pass; then the packed weights are kept."""
        if self._used:
            for linear in self.linears.values():
                linear.packed(keep=True)
        repeat, self._used = self._used, True
        return repeat


def shape_taps(trace: Trace, tower: str, n: int) -> None:
    """Turn the matrices [N * L, D] that a tower leaves in a trace into [N, L, D], as the reference has them."""
    for name, tap in trace.items():
        if name.startswith(tower) and tap.ndim == 2 and not name.endswith((".pooled", "text.head")):
            trace.reshape(name, n, len(tap) // n, tap.shape[1])
