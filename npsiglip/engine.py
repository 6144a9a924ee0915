"""Both towers on Numba kernels: `npsiglip.reference.model` line by line, with packed weights and work buffers.

A tower maps arrays to arrays; weights that are used repeatedly are packed for good. Activations are float32 matrices
[N * L, D]; q, k and v (and the MAP head's k and v) come from one product each. The results have the same bits for any
number of threads and any batch. Dimensions: N batch, L tokens, D width, H heads, M mlp width, P patch, V vocabulary.

Left out: choosing what to run on, checking input, normalising embeddings; that is `npsiglip.model`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, TextConfig
from npsiglip.kernels import attention, gemm, layer_norm, map_pool, patch_embed
from npsiglip.params import Params, block_name
from npsiglip.trace import Forget, Trace

Array = NDArray[np.float32]

NO_RESIDUAL: Array = np.empty((0, 0), np.float32)


class Room:
    """Where packed weights lie: one scratch array for a single use, large blocks for those that are kept.

    The system backs large blocks with large pages.
    """

    BLOCK = 1 << 23  # float32 elements, 32 MB
    ALIGNMENT = 16  # float32 elements: a cache line

    def __init__(self) -> None:
        self._scratch: Array = np.empty(0, np.float32)
        self._block: Array = np.empty(0, np.float32)

    def lend(self, size: int) -> Array:
        """An array that the next call may overwrite."""
        if len(self._scratch) < size:
            self._scratch = self._aligned(size)
        return self._scratch[:size]

    def keep(self, size: int) -> Array:
        """An array of one's own."""
        if len(self._block) < size:
            self._block = self._aligned(max(size, self.BLOCK))
        room, self._block = self._block[:size], self._block[size:]
        return room

    def _aligned(self, size: int) -> Array:
        block = np.empty(size + self.ALIGNMENT, np.float32)
        start = -block.ctypes.data // block.itemsize % self.ALIGNMENT
        return block[start : start + size]


class Linear:
    """A linear layer, or several with the same input beside each other.

    The first pass packs the weights into scratch memory, which stays in the cache; the second packs them for good and
    lets the originals go. So a program that classifies one image does not fill memory with weights that it uses once.

    Args:
        name: of the trace's tap.
        weights: [N, K] of each layer, of any float type.
        b: float32, of all layers together.
        room: for packed weights.
    """

    def __init__(self, name: str, weights: list[NDArray[np.floating]], b: Array, room: Room) -> None:
        self.name, self.b = name, b
        self._weights, self._room = weights, room
        self._panels: Array | None = None
        self._used = False

    def _packed(self) -> Array:
        if self._panels is not None:
            return self._panels
        n, k = len(self.b), self._weights[0].shape[1]
        size = gemm.packed_size(k, n)
        panels = self._room.keep(size) if self._used else self._room.lend(size)
        first = 0
        for weight in self._weights:
            w = np.ascontiguousarray(weight, np.float32).view()
            w.flags.writeable = False  # as mapped files are: one type, so one compiled kernel
            gemm.pack(w, first, n, panels)
            first += len(w)
        if self._used:
            self._panels, self._weights = panels, []
        self._used = True
        return panels

    def __call__(
        self, x: Array, out: Array, trace: Forget, *, gelu: bool = False, residual: Array = NO_RESIDUAL
    ) -> Array:
        """Out = residual + gelu(x w + b); what comes before gelu and residual is traced under the layer's name."""
        fused = gelu or residual.size > 0
        before = trace.room(self.name, out.shape) if fused else NO_RESIDUAL
        gemm.linear(x, self._packed(), self.b, gemm.GELU_TANH if gelu else gemm.NO_ACTIVATION, residual, before, out)
        if not fused:
            trace[self.name] = out
        return out


class LayerNorm(NamedTuple):
    """Scale and bias of a LayerNorm."""

    name: str
    scale: Array
    b: Array
    eps: float

    def __call__(self, x: Array, out: Array, trace: Forget) -> Array:
        """Normalise the rows of x."""
        layer_norm.layer_norm(x, self.scale, self.b, self.eps, out)
        trace[self.name] = out
        return out


class Layers:
    """Makes the layers of a tower from its parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._room = Room()

    def array(self, name: str) -> Array:
        """A parameter as float32, a copy."""
        return np.array(self.params[name], np.float32)

    def linear(self, name: str, parts: tuple[str, ...] = ()) -> Linear:
        """The linear layer `name`, or the `parts` of it beside each other."""
        names = [f"{name}.{part}" for part in parts] or [name]
        weights = [self.params[f"{n}.w"].T for n in names]
        return Linear(name, weights, np.concatenate([self.array(f"{n}.b") for n in names]), self._room)

    def layer_norm(self, name: str, eps: float) -> LayerNorm:
        """The LayerNorm `name`."""
        return LayerNorm(name, self.array(f"{name}.scale"), self.array(f"{name}.b"), eps)


class Buffers:
    """Work arrays of one tower for one shape of input, used again by every block."""

    def __init__(self, n: int, length: int, width: int, mlp_dim: int, num_heads: int) -> None:
        rows = n * length
        self.n, self.length, self.num_heads = n, length, num_heads
        self.x = np.empty((rows, width), np.float32)
        self.y = np.empty((rows, width), np.float32)
        self.qkv = np.empty((rows, 3 * width), np.float32)
        self.mlp = np.empty((rows, mlp_dim), np.float32)
        scratch = attention.scratch_size(n, length, num_heads, width // num_heads)
        self.scratch = np.empty(scratch, np.float32)


class Block:
    """One pre-LN transformer block."""

    def __init__(self, layers: Layers, name: str, eps: float) -> None:
        self.name = name
        self.ln1 = layers.layer_norm(f"{name}.ln1", eps)
        self.qkv = layers.linear(f"{name}.attn", ("q", "k", "v"))
        self.out = layers.linear(f"{name}.attn.out")
        self.ln2 = layers.layer_norm(f"{name}.ln2", eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1")
        self.fc2 = layers.linear(f"{name}.mlp.fc2")

    def __call__(self, work: Buffers, trace: Forget) -> None:
        """X = work.x becomes x + attention(ln1(x)), then x + mlp(ln2(x))."""
        x, y = work.x, work.y
        self.ln1(x, y, trace)
        self.qkv(y, work.qkv, Forget())
        for part, name in zip(np.split(work.qkv, 3, axis=1), "qkv", strict=True):
            trace[f"{self.name}.attn.{name}"] = part
        probs = trace.room(f"{self.name}.attn.probs", (work.n, work.num_heads, work.length, work.length))
        attention.attention(work.qkv, work.length, work.num_heads, work.scratch, probs, y)
        trace[f"{self.name}.attn.mix"] = y
        self.out(y, x, trace, residual=x)
        trace[f"{self.name}.+attn"] = x
        self.ln2(x, y, trace)
        self.fc1(y, work.mlp, trace, gelu=True)
        trace[f"{self.name}.mlp.gelu"] = work.mlp
        self.fc2(work.mlp, x, trace, residual=x)
        trace[f"{self.name}.+mlp"] = x


class Blocks:
    """All blocks of a tower and the final LayerNorm."""

    def __init__(self, layers: Layers, tower: str, config: ImageConfig | TextConfig) -> None:
        self.config = config
        self.blocks = [Block(layers, block_name(tower, i), config.layer_norm_eps) for i in range(config.depth)]
        self.final_ln = layers.layer_norm(f"{tower}.final_ln", config.layer_norm_eps)

    def buffers(self, n: int, length: int) -> Buffers:
        """Work arrays for n inputs of `length` tokens."""
        return Buffers(n, length, self.config.width, self.config.mlp_dim, self.config.num_heads)

    def __call__(self, work: Buffers, trace: Forget) -> Array:
        """The tokens in work.x to normalised tokens [N * L, D], in work.y."""
        for block in self.blocks:
            block(work, trace)
        return self.final_ln(work.x, work.y, trace)


class MapHead:
    """Attention pooling by a learned probe, then an MLP with residual."""

    def __init__(self, layers: Layers, name: str, config: ImageConfig) -> None:
        self.name, self.config = name, config
        # The query is the same for every image: computed once, in float64 and in a fixed order, and rounded.
        probe, w, b = (
            np.asarray(layers.params[f"{name}.{part}"], np.float64) for part in ("probe", "attn.q.w", "attn.q.b")
        )
        q = b.copy()
        for number, row in zip(probe, w, strict=True):
            q += number * row
        self.q = q.astype(np.float32)
        self.kv = layers.linear(f"{name}.attn", ("k", "v"))
        self.out = layers.linear(f"{name}.attn.out")
        self.ln = layers.layer_norm(f"{name}.ln", config.layer_norm_eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1")
        self.fc2 = layers.linear(f"{name}.mlp.fc2")

    def __call__(self, tokens: Array, n: int, trace: Forget) -> Array:
        """Tokens [N * L, D] -> [N, D]."""
        rows, width = tokens.shape
        kv = self.kv(tokens, np.empty((rows, 2 * width), np.float32), Forget())
        trace[f"{self.name}.attn.q"] = np.broadcast_to(self.q, (n, width))
        for part, name in zip(np.split(kv, 2, axis=1), "kv", strict=True):
            trace[f"{self.name}.attn.{name}"] = part
        probs = np.empty((n, self.config.num_heads, 1, rows // n), np.float32)
        mix, x, y = (np.empty((n, width), np.float32) for _ in range(3))
        map_pool.map_pool(self.q, kv, rows // n, self.config.num_heads, probs, mix)
        trace[f"{self.name}.attn.probs"] = probs
        trace[f"{self.name}.attn.mix"] = mix
        self.out(mix, x, trace)
        self.ln(x, y, trace)
        hidden = self.fc1(y, np.empty((n, self.config.mlp_dim), np.float32), trace, gelu=True)
        trace[f"{self.name}.mlp.gelu"] = hidden
        self.fc2(hidden, x, trace, residual=x)
        trace[f"{self.name}.+mlp"] = x
        return x


class ImageTower:
    """Images to vectors, not normalised."""

    name = "image"

    def __init__(self, params: Params, config: ImageConfig) -> None:
        layers = Layers(params)
        self.config = config
        self.patch_embed = layers.linear("image.patch_embed")
        self.pos_embed = layers.array("image.pos_embed")
        self.blocks = Blocks(layers, "image", config)
        self.map_head = MapHead(layers, "image.map_head", config)

    def __call__(self, pixels: Array, trace: Forget) -> Array:
        """Pixels [N, 3, S, S] -> [N, D]."""
        n, length, patch_size = len(pixels), self.config.seq_len, self.config.patch_size
        patches = np.empty((n * length, patch_size * patch_size * 3), np.float32)
        patch_embed.extract_patches(pixels, patch_size, patches)
        work = self.blocks.buffers(n, length)
        trace["image.embed"] = self.patch_embed(patches, work.x, trace, residual=self.pos_embed)
        pooled = self.map_head(self.blocks(work, trace), n, trace)
        trace["image.pooled"] = pooled
        return pooled


class TextTower:
    """Texts to vectors, not normalised. No mask: SigLIP attends to padding, and pools the last position."""

    name = "text"

    def __init__(self, params: Params, config: TextConfig) -> None:
        layers = Layers(params)
        self.config = config
        self.token_embed = np.asarray(params["text.token_embed"])  # stays where and as it is stored
        self.pos_embed = layers.array("text.pos_embed")
        self.blocks = Blocks(layers, "text", config)
        self.head = layers.linear("text.head")

    def __call__(self, ids: NDArray[np.integer], trace: Forget) -> Array:
        """Token ids [N, L] -> [N, P], P the projection."""
        n, length = ids.shape
        work = self.blocks.buffers(n, length)
        x = work.x.reshape(n, length, -1)
        np.add(self.token_embed[ids].astype(np.float32, copy=False), self.pos_embed[:length], out=x)
        trace["text.embed"] = work.x
        pooled = np.ascontiguousarray(self.blocks(work, trace).reshape(x.shape)[:, -1])
        trace["text.pooled"] = pooled
        return self.head(pooled, np.empty((n, self.config.projection_dim), np.float32), trace)


def shape_taps(trace: Trace, tower: str, n: int) -> None:
    """Turn the matrices [N * L, D] that a tower leaves in a trace into [N, L, D], as the reference has them."""
    for name, tap in trace.items():
        if name.startswith(tower) and tap.ndim == 2 and not name.endswith((".pooled", "text.head")):
            trace.reshape(name, n, len(tap) // n, tap.shape[1])
