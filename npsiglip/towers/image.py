"""The image tower on Numba kernels, its ways to pool tokens, and a classifier on them; see `npsiglip.towers.blocks`.

Dimensions: N batch, L tokens, D width, P patch, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, SigLIPConfig
from npsiglip.kernels import map_pool, patch_embed
from npsiglip.params import Params
from npsiglip.towers.blocks import Blocks, Pass, Tower
from npsiglip.towers.layers import ACTIVATIONS, Array, Layers, Matrix, Room
from npsiglip.towers.positions import interpolated
from npsiglip.trace import FORGET, Forget

RECENT_GRIDS = 32  # whose positions are at hand: with NaFlex, those that photographs usually have


def by_channel(w: NDArray[Any]) -> NDArray[Any]:
    """Weights [P * P * 3, D] of patches ordered (row, column, channel) -> [D, 3 * P * P], (channel, row, column).

    An `Order`: the first is how the parameters are stored, the second how the kernel `patches_by_channel` gives
    patches, where a channel's rows lie together.
    """
    size = int((len(w) // 3) ** 0.5)
    return w.reshape(size, size, 3, -1).transpose(3, 2, 0, 1).reshape(-1, len(w))


def mean_of_tokens(tokens: Array) -> NDArray[np.float64]:
    """Tokens [N, L, D] -> [N, D], accumulated in float64, image by image: the same bits in any batch."""
    means = np.empty((len(tokens), tokens.shape[2]), np.float64)
    for mean, image in zip(means, tokens, strict=True):
        image.mean(axis=0, dtype=np.float64, out=mean)
    return means


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
    """Attention pooling by a learned probe, then an MLP with residual; `activation` is the MLP's, see `Linear`."""

    def __init__(self, layers: Layers, name: str, config: ImageConfig, activation: int) -> None:
        self.name, self.config, self.dtype = name, config, layers.outer
        self.q = layers.array(f"{name}.query") if f"{name}.query" in layers.params else self._query(layers.params)
        self.kv = layers.linear(f"{name}.attn", layers.outer, ("k", "v"))
        self.out = layers.linear(f"{name}.attn.out", layers.outer)
        self.ln = layers.layer_norm(f"{name}.ln", config.layer_norm_eps)
        self.fc1 = layers.linear(f"{name}.mlp.fc1", layers.outer, activation=activation)
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
        # k, v = tokens w + b; q has been computed once for all images
        self.kv(work.tokens, work.kv, FORGET)
        trace[f"{self.name}.attn.q"] = np.broadcast_to(self.q, (n, len(self.q)))
        trace.parts(f"{self.name}.attn", "kv", work.kv)
        # x = (softmax(q k^T / sqrt(Dh)) v) w + b
        map_pool.map_pool(self.q, work.kv, length, self.config.num_heads, work.probs, work.mix.out)
        trace[f"{self.name}.attn.probs"] = work.probs
        trace[f"{self.name}.attn.mix"] = work.mix
        work.mix.ready()
        self.out(work.mix, work.x, trace)
        # x += mlp(ln(x))
        self.ln(work.x, work.y, trace)
        self.fc1(work.y, work.mlp.out, trace)
        trace[f"{self.name}.mlp.gelu"] = work.mlp
        work.mlp.ready()
        self.fc2(work.mlp, work.x, trace, residual=work.x)
        trace[f"{self.name}.+mlp"] = work.x
        return work.x


class ImageTower(Tower):
    """Images to vectors, not normalised, or to tokens.

    With NaFlex, images of one call have one grid: nothing is padded, and no mask is needed.
    """

    name = "image"

    def __init__(self, params: Params, config: ImageConfig, dtype: str = "float32") -> None:
        layers, activation = Layers(params, dtype), ACTIVATIONS[config.activation]
        super().__init__(layers, self._make_pass)
        self.config = config
        self.patch_embed = layers.linear("image.patch_embed", layers.outer, order=by_channel)
        self.pos_embed = layers.array("image.pos_embed")
        self.blocks = Blocks(layers, "image", config, activation)
        self.map_head = MapHead(layers, "image.map_head", config, activation) if config.head else None
        self._positions: dict[tuple[int, int], Array] = {}

    def positions(self, rows: int, columns: int) -> Array:
        """Those of a grid, [rows * columns, D]; interpolated ones of the last few grids are not computed again."""
        if (rows, columns) == (self.config.grid_size, self.config.grid_size):
            return self.pos_embed
        known = self._positions.pop((rows, columns), None)
        if known is None:
            known = interpolated(self.pos_embed, rows, columns, antialias=self.config.naflex)
        self._positions[rows, columns] = known
        if len(self._positions) > RECENT_GRIDS:
            del self._positions[next(iter(self._positions))]
        return known

    def _make_pass(self, n: int, rows: int, columns: int, pooled: bool) -> tuple[Matrix, Pass]:
        length = rows * columns
        room = Room()
        patches = Matrix(n * length, 3 * self.config.patch_size**2, self.outer, from_float32=True, room=room)
        work, positions = self.blocks.buffers(n, length, room), self.positions(rows, columns)
        head = self.map_head if pooled else None
        pool = head.buffers(n, length, room) if head else None
        tokens = pool.tokens if pool else Matrix(n * length, self.config.width, "float32", room=room)

        def body(trace: Forget) -> Array:
            # x = patches w + b + positions
            trace["image.embed"] = self.patch_embed(patches, work.x, trace, residual=positions)
            self.blocks(work, work, tokens, trace)
            if head is None or pool is None:
                return tokens.out
            vectors = head(pool, trace)
            trace["image.pooled"] = vectors
            return vectors

        return patches, Pass(body)

    def __call__(self, images: Array | tuple[Array, int, int], trace: Forget, pooled: bool = True) -> Array:
        """Images of one size to vectors [N, D]; or, if not `pooled` or with no head or mean, to tokens [N, L, D].

        Args:
            images: pixels [N, 3, H, W]; or patches [N, L, P * P * 3], ordered (row, column, channel), and the rows and
                columns of their grid.
            trace: for every intermediate.
            pooled: whether by the MAP head, or the mean of the tokens where the model has that.
        """
        repeat, size = self.used_before(), self.config.patch_size
        if isinstance(images, tuple):
            x, rows, columns = images
            patches, run = self.passes(len(x), rows, columns, pooled)
            patches.fill(x.reshape(-1, size * size, 3).transpose(0, 2, 1))  # in the order of `by_channel`
        else:
            x, (rows, columns) = images, (side // size for side in images.shape[2:])
            patches, run = self.passes(len(x), rows, columns, pooled)
            patch_embed.patches_by_channel(x, size, patches.out)
            patches.ready()
        result = run(trace, repeat)
        if pooled and self.map_head:
            return result
        tokens = result.reshape(len(x), rows * columns, -1)
        if not (pooled and self.config.mean):
            return tokens
        vectors = mean_of_tokens(tokens).astype(np.float32)
        trace["image.pooled"] = vectors
        return vectors


class Classifier:
    """A linear layer on the mean of an image's tokens."""

    def __init__(self, params: Params, config: SigLIPConfig, dtype: str = "float32") -> None:
        assert config.classifier is not None
        layers = Layers(params, dtype)
        self.outer, self.linears, self.classes = layers.outer, layers.linears, len(config.classifier.labels)
        self.linear = layers.linear("classifier", layers.outer)

    def __call__(self, tokens: Array, trace: Forget) -> Array:
        """Tokens [N, L, D] -> logits [N, K]."""
        n = len(tokens)
        means = Matrix(n, tokens.shape[2], self.outer)
        means.fill(mean_of_tokens(tokens))
        trace["image.mean"] = means
        return self.linear(means, np.empty((n, self.classes), np.float32), trace)
