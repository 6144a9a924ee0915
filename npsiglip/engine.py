"""Both towers on Numba kernels: `npsiglip.reference.model` line by line, with packed weights and work buffers.

A tower maps arrays to arrays. The residual stream is float32, [N * L, D]; what linear layers read is in their element
type (`npsiglip.layers`). q, k and v (and the MAP head's k and v) come from one product each. Work buffers are
allocated once for a shape. The results have the same bits for any number of threads and any batch.
Dimensions: N batch, L tokens, D width, H heads, M mlp width, P patch, V vocabulary.

Left out: choosing what to run on, checking input, normalising embeddings; that is `npsiglip.model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, TextConfig
from npsiglip.kernels import attention, map_pool, patch_embed
from npsiglip.kernels.pack import take_rows
from npsiglip.kernels.tasks import Program, recording
from npsiglip.layers import Array, Layers, Matrix, Room
from npsiglip.params import Params, block_name
from npsiglip.quantized import gather_rows
from npsiglip.trace import FORGET, Forget, Trace

ALL_VALID = np.empty((0, 0), np.uint8)
SHAPES_KEPT = 3  # by one tower: full passes, the rest of a batch, single inputs


class Buffers:
    """Work arrays of one tower for one shape of input, used again by every block and every pass."""

    def __init__(self, n: int, length: int, config: ImageConfig | TextConfig, dtype: str, room: Room) -> None:
        rows, width = n * length, config.width
        self.n, self.length, self.num_heads = n, length, config.num_heads
        self.x = room.array((rows, width), np.float32)
        self.y = Matrix(rows, width, dtype, room=room)
        in_pairs = dtype != "float32" and width // config.num_heads % 2 == 0  # bfloat16, two in a step
        self.qkv = room.array((rows, 3 * width), np.uint16 if in_pairs else np.float32)
        self.mlp = Matrix(rows, config.mlp_dim, dtype, room=room)


class Block:
    """One pre-LN transformer block."""

    def __init__(self, layers: Layers, name: str, eps: float) -> None:
        self.name = name
        self.ln1 = layers.layer_norm(f"{name}.ln1", eps)
        self.qkv = layers.linear(f"{name}.attn", layers.dtype, ("q", "k", "v"))
        self.out = layers.linear(f"{name}.attn.out", layers.dtype)
        self.ln2 = layers.layer_norm(f"{name}.ln2", eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1", layers.dtype)
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
        attention.attention(work.qkv, work.length, work.num_heads, first, ALL_VALID, probs, rest.y.out)
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
        self.blocks = [Block(layers, block_name(tower, i), config.layer_norm_eps) for i in range(config.depth)]
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
            self._program = Program()
            with recording(self._program):
                self._result = self._body(FORGET)
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


class PoolBuffers:
    """Work arrays of the MAP head."""

    def __init__(self, n: int, length: int, config: ImageConfig, dtype: str, room: Room) -> None:
        self.tokens = Matrix(n * length, config.width, dtype, room=room)
        self.kv = room.array((n * length, 2 * config.width), np.float32)
        self.probs = np.empty((n, config.num_heads, 1, length), np.float32)
        self.mix, self.y = (Matrix(n, config.width, dtype, room=room) for _ in range(2))
        self.x = np.empty((n, config.width), np.float32)
        self.mlp = Matrix(n, config.mlp_dim, dtype, room=room)


class MapHead:
    """Attention pooling by a learned probe, then an MLP with residual."""

    def __init__(self, layers: Layers, name: str, config: ImageConfig) -> None:
        self.name, self.config, self.dtype = name, config, layers.outer
        self.q = layers.array(f"{name}.query") if f"{name}.query" in layers.params else self._query(layers.params)
        self.kv = layers.linear(f"{name}.attn", layers.outer, ("k", "v"))
        self.out = layers.linear(f"{name}.attn.out", layers.outer)
        self.ln = layers.layer_norm(f"{name}.ln", config.layer_norm_eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1", layers.outer)
        self.fc2 = layers.linear(f"{name}.mlp.fc2", layers.outer)

    def _query(self, params: Params) -> Array:
        """The same for every image: computed once, in float64 and in a fixed order, and rounded."""
        probe, w, b = (
            np.asarray(params[f"{self.name}.{part}"], np.float64) for part in ("probe", "attn.q.w", "attn.q.b")
        )
        q = b.copy()
        for number, row in zip(probe, w, strict=True):
            q += number * row
        return q.astype(np.float32)

    def buffers(self, n: int, length: int, room: Room) -> PoolBuffers:
        """Work arrays for n images of `length` tokens."""
        return PoolBuffers(n, length, self.config, self.dtype, room)

    def __call__(self, work: PoolBuffers, trace: Forget) -> Array:
        """The tokens of `work` [N * L, D] -> [N, D]."""
        n, _, _, length = work.probs.shape
        self.kv(work.tokens, work.kv, FORGET)
        trace[f"{self.name}.attn.q"] = np.broadcast_to(self.q, (n, len(self.q)))
        trace.parts(f"{self.name}.attn", "kv", work.kv)
        map_pool.map_pool(self.q, work.kv, length, self.config.num_heads, work.probs, work.mix.out)
        trace[f"{self.name}.attn.probs"] = work.probs
        trace[f"{self.name}.attn.mix"] = work.mix
        work.mix.ready()
        self.out(work.mix, work.x, trace)
        self.ln(work.x, work.y, trace)
        self.fc1(work.y, work.mlp.out, trace, gelu=True)
        trace[f"{self.name}.mlp.gelu"] = work.mlp
        work.mlp.ready()
        self.fc2(work.mlp, work.x, trace, residual=work.x)
        trace[f"{self.name}.+mlp"] = work.x
        return work.x


class ImageTower(Tower):
    """Images to vectors, not normalised."""

    name = "image"

    def __init__(self, params: Params, config: ImageConfig, dtype: str = "float32") -> None:
        layers = Layers(params, dtype)
        super().__init__(layers, self._make_pass)
        self.config = config
        self.patch_embed = layers.linear("image.patch_embed", layers.outer)
        self.pos_embed = layers.array("image.pos_embed")
        self.blocks = Blocks(layers, "image", config)
        self.map_head = MapHead(layers, "image.map_head", config)

    def _make_pass(self, n: int) -> tuple[Matrix, Pass]:
        length = self.config.seq_len
        room = Room()
        patches = Matrix(n * length, 3 * self.config.patch_size**2, self.outer, from_float32=True, room=room)
        work, pool = self.blocks.buffers(n, length, room), self.map_head.buffers(n, length, room)

        def body(trace: Forget) -> Array:
            trace["image.embed"] = self.patch_embed(patches, work.x, trace, residual=self.pos_embed)
            self.blocks(work, work, pool.tokens, trace)
            pooled = self.map_head(pool, trace)
            trace["image.pooled"] = pooled
            return pooled

        return patches, Pass(body)

    def __call__(self, pixels: Array, trace: Forget) -> Array:
        """Pixels [N, 3, S, S] -> [N, D]."""
        repeat = self.keep()
        patches, run = self.passes(len(pixels))
        patch_embed.extract_patches(pixels, self.config.patch_size, patches.out)
        patches.ready()
        return run(trace, repeat)


class TextTower(Tower):
    """Texts to vectors, not normalised. No mask: SigLIP attends to padding, and pools the last position.

    Nobody reads the other positions of the last block: without a trace they are not computed.
    """

    name = "text"

    def __init__(self, params: Params, config: TextConfig, dtype: str = "float32") -> None:
        layers = Layers(params, dtype)
        super().__init__(layers, self._make_pass)
        self.config, self.dtype, self.params = config, dtype, params
        self.pos_embed = layers.array("text.pos_embed")
        self.blocks = Blocks(layers, "text", config)
        self.head = layers.linear("text.head", layers.outer)

    def _make_pass(self, n: int, length: int) -> tuple[Array, Pass]:
        room = Room()
        work, rest = self.blocks.buffers(n, length, room), self.blocks.buffers(n, 1, room)
        last = Matrix(n, self.config.width, self.outer, room=room)
        result = np.empty((n, self.config.projection_dim), np.float32)

        def body(trace: Forget) -> Array:
            trace["text.embed"] = work.x
            if isinstance(trace, Trace):
                every = Matrix(n * length, self.config.width, self.outer)
                self.blocks(work, work, every, trace)
                last.out[:] = every.out[length - 1 :: length]
                last.ready()
            else:
                self.blocks(work, rest, last, trace)
            trace["text.pooled"] = last
            return self.head(last, result, trace)

        return work.x.reshape(n, length, -1), Pass(body)

    def __call__(self, ids: NDArray[np.integer], trace: Forget) -> Array:
        """Token ids [N, L] -> [N, P], P the projection."""
        repeat = self.keep()
        n, length = ids.shape
        x, run = self.passes(n, length)
        np.add(gather_rows(self.params, "text.token_embed", ids, self.dtype), self.pos_embed[:length], out=x)
        return run(trace, repeat)


def shape_taps(trace: Trace, tower: str, n: int) -> None:
    """Turn the matrices [N * L, D] that a tower leaves in a trace into [N, L, D], as the reference has them."""
    for name, tap in trace.items():
        if name.startswith(tower) and tap.ndim == 2 and not name.endswith((".pooled", "text.head")):
            trace.reshape(name, n, len(tap) // n, tap.shape[1])
