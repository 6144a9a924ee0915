"""What both towers are built of, on Numba kernels: blocks, work buffers, passes that are recorded and repeated.

With `npsiglip.towers.image` and `npsiglip.towers.text`: `npsiglip.reference.model` line by line, with packed weights. A
tower maps arrays to arrays. The residual stream is float32, [N * L, D]; what linear layers read is in their element
type (`npsiglip.towers.layers`). q, k and v (and the MAP head's k and v) come from one product each. Work buffers are
allocated once for a shape. The results have the same bits for any number of threads and any batch.
Dimensions: N batch, L tokens, D width, H heads, M mlp width.

Left out: turns, locks and the number of threads, which whoever calls a tower decides (`npsiglip.kernels.threads`);
choosing what to run on, checking input, normalising embeddings, which is `npsiglip.model`.
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
RECENT_SHAPES = 3  # of one tower: full passes, the rest of a batch, single inputs


class Buffers:
    """Work arrays of one tower for one shape of input, used again by every block and every pass.

    Attributes:
        x: the stream, float32 [N * L, D].
        y: what LayerNorms and attention give, [N * L, D].
        qkv: q, k and v beside each other, [N * L, 3 D]; in bfloat16 where the blocks are not in float32.
        mlp: within the MLP, [N * L, M].
        valid: a mask of the keys, uint8 [N, L], or empty.
    """

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
    """One pre-LN transformer block; `activation` is the MLP's, see `Linear`."""

    def __init__(self, layers: Layers, name: str, eps: float, activation: int) -> None:
        self.name = name
        self.ln1 = layers.layer_norm(f"{name}.ln1", eps)
        self.qkv = layers.linear(f"{name}.attn", layers.dtype, ("q", "k", "v"))
        self.out = layers.linear(f"{name}.attn.out", layers.dtype)
        self.ln2 = layers.layer_norm(f"{name}.ln2", eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1", layers.dtype, activation=activation)
        self.fc2 = layers.linear(f"{name}.mlp.fc2", layers.dtype)

    def __call__(self, work: Buffers, rest: Buffers, trace: Forget) -> None:
        """The stream x = work.x becomes x + attention(ln1(x)), then x + mlp(ln2(x)), in rest.x.

        `rest` is `work`; or it holds only the last token of each input: then the others are left as they are.
        """
        # y = ln1(x)
        self.ln1(work.x, work.y, trace)
        # q, k, v = y w + b, of all tokens: also those that are not in `rest` are keys and values
        self.qkv(work.y, work.qkv, FORGET)
        trace.parts(f"{self.name}.attn", "qkv", work.qkv)
        # y = softmax(q k^T / sqrt(Dh)) v, of the queries in `rest`
        first = work.length - rest.length
        probs = trace.room(f"{self.name}.attn.probs", (work.n, work.num_heads, rest.length, work.length))
        attention.attention(work.qkv, work.length, work.num_heads, first, work.valid, probs, rest.y.out)
        trace[f"{self.name}.attn.mix"] = rest.y
        rest.y.ready()
        # x += y w + b
        x = rest.x
        if rest is not work:
            take_rows(work.x, work.length, first, x)
        self.out(rest.y, x, trace, residual=x)
        trace[f"{self.name}.+attn"] = x
        # y = ln2(x)
        self.ln2(x, rest.y, trace)
        # h = gelu(y w + b), in one kernel
        self.fc1(rest.y, rest.mlp.out, trace)
        trace[f"{self.name}.mlp.gelu"] = rest.mlp
        rest.mlp.ready()
        # x += h w + b
        self.fc2(rest.mlp, x, trace, residual=x)
        trace[f"{self.name}.+mlp"] = x


class Blocks:
    """All blocks of a tower and the final LayerNorm; `activation` is that of the MLPs, see `Linear`."""

    def __init__(self, layers: Layers, tower: str, config: ImageConfig | TextConfig, activation: int) -> None:
        self.config, self.dtype = config, layers.dtype
        eps = config.layer_norm_eps
        self.blocks = [Block(layers, block_name(tower, i), eps, activation) for i in range(config.depth)]
        self.final_ln = layers.layer_norm(f"{tower}.final_ln", config.layer_norm_eps)

    def buffers(self, n: int, length: int, room: Room) -> Buffers:
        """Work arrays for n inputs of `length` tokens."""
        return Buffers(n, length, self.config, self.dtype, room)

    def __call__(self, work: Buffers, rest: Buffers, out: Matrix, trace: Forget) -> Matrix:
        """The tokens in work.x to normalised tokens, into `out`, [N * L, D] or what `rest` has of them.

        `rest` is `work`; or it holds only the last token of each input, for which alone the last block and the final
        LayerNorm are then computed.
        """
        for block in self.blocks[:-1]:
            block(work, work, trace)
        self.blocks[-1](work, rest, trace)
        return self.final_ln(rest.x, out, trace)


class Recent:
    """The last few results of a function of numbers: passes, which are made once for a shape."""

    def __init__(self, make: Callable[..., tuple[Any, Pass]]) -> None:
        self.make = make
        self._recent: dict[tuple[int, ...], tuple[Any, Pass]] = {}

    def __call__(self, *shape: int) -> tuple[Any, Pass]:
        """What was made for these numbers, or is now."""
        result = self._recent.pop(shape, None) or self.make(*shape)
        self._recent[shape] = result
        if len(self._recent) > RECENT_SHAPES:
            del self._recent[next(iter(self._recent))]  # the one that was not used for longest
        return result


class Pass:
    """A way through a tower for one shape of input: work arrays, and the operations on them.

    Kernels are called by `body` from Python: with a trace, and in a tower's first pass, which lets every layer pack its
    weights in turn. Later passes repeat what one of them did, without Python (`npsiglip.kernels.tasks`).
    """

    def __init__(self, body: Callable[[Forget], Array]) -> None:  # what it gives lies in a work array
        self._body = body
        self._program: Program | None = None
        self._result: Array = np.empty(0, np.float32)

    def __call__(self, trace: Forget, repeat: bool) -> Array:
        """Do all operations, from Python or, if it may `repeat`, without it; the result is the caller's."""
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
    """What both towers share: layers that pack their weights, and the passes of the last few shapes of input."""

    def __init__(self, layers: Layers, make_pass: Callable[..., tuple[Any, Pass]]) -> None:
        self.linears, self.outer = layers.linears, layers.outer
        self.passes = Recent(make_pass)
        self._used = False

    def used_before(self) -> bool:
        """Whether this pass is not the first; then the packed weights are kept from now on."""
        if self._used:
            for linear in self.linears.values():
                linear.packed(keep=True)
        before, self._used = self._used, True
        return before


def shape_taps(trace: Trace, tower: str, n: int) -> None:
    """Turn the matrices [N * L, D] that a tower leaves in a trace into [N, L, D], as the reference has them."""
    for name, tap in trace.items():
        if name.startswith(tower) and tap.ndim == 2 and not name.endswith((".pooled", "text.head")):
            trace.reshape(name, n, len(tap) // n, tap.shape[1])
