"""Both towers, forward and backward, on kernels: `npsiglip.towers.blocks` with gradients.

A batch goes through a tower in parts of a few inputs, so that what one layer leaves is still in the cache for the next.
A part keeps what its backward pass needs (`Kept`), so memory grows with the batch; the gradients' own arrays are shared
by all parts. The parts' size depends on the shapes alone and parts come in order: the same bits for any number of
threads. The plain form is `npsiglip.reference.backward`, the names are its names.

Dimensions: N inputs of a part, L tokens, D width, H heads, M mlp width, P patch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, TextConfig
from npsiglip.kernels import attention, attention_gradient, map_pool, map_pool_gradient, patch_embed, sums
from npsiglip.params import block_name
from npsiglip.train.layers import Array, LayerNorm, Linear, Scratch, Values, with_slack

ROWS_OF_A_PART = 2048  # tokens: measured, see docs/benchmarks.md
ALL_VALID = np.empty((0, 0), np.uint8)
NO_PROBS = np.empty(0, np.float32)


def part_size(length: int) -> int:
    """Inputs of a part."""
    return max(1, ROWS_OF_A_PART // length)


class Made(NamedTuple):
    """What all layers of a model are made of."""

    params: Values
    grads: Values
    scratch: Scratch
    dtype: str

    def linear(self, names: list[str], frozen: bool, order: NDArray[np.intp] | None = None) -> Linear:
        """A linear layer of these parameters."""
        return Linear(names, self.params, self.grads, self.scratch, self.dtype, order, frozen)


class Mlp:
    """fc2(gelu(fc1(ln(x)))), added to x."""

    def __init__(self, name: str, ln: str, eps: float, made_of: Made, frozen: bool) -> None:
        self.ln = LayerNorm(ln, eps, made_of.params, made_of.grads)
        self.fc1 = made_of.linear([f"{name}.fc1"], frozen)
        self.fc2 = made_of.linear([f"{name}.fc2"], frozen)
        self.layers = self.ln, self.fc1, self.fc2
        self.scratch = made_of.scratch

    def keep(self, rows: int, kept: dict[str, Array]) -> None:
        """Make room for what `backward` needs."""
        width, mlp_dim = self.fc1.shape
        kept["ln2"] = with_slack((rows, width), self.fc1.kind)
        kept["fc1"], kept["gelu"] = with_slack((rows, mlp_dim)), with_slack((rows, mlp_dim), self.fc2.kind)

    def forward(self, x: Array, kept: dict[str, Array], out: Array) -> None:
        """Out = x + mlp(ln(x)); out is not x."""
        y = self.ln.forward(x, kept["ln2"])
        h = self.fc1.forward_gelu(y, kept["fc1"], kept["gelu"])
        self.fc2.forward(h, out, residual=x)

    def backward(self, x: Array, kept: dict[str, Array], dx: Array) -> None:
        """dx, the gradient of the result, becomes the gradient of x."""
        self.fc2.backward_weights(kept["gelu"], dx)
        dh = self.fc2.backward_input_gelu(dx, kept["fc1"], self.scratch("mlp", *kept["fc1"].shape, kind=self.fc1.kind))
        self.fc1.backward_weights(kept["ln2"], dh)
        dy = self.fc1.backward_input(dh, self.scratch("y", *x.shape))
        self.ln.backward(x, dy, dx)


class Block:
    """One pre-LN transformer block."""

    def __init__(self, name: str, config: ImageConfig | TextConfig, made_of: Made, frozen: bool) -> None:
        eps = config.layer_norm_eps
        self.num_heads, self.width = config.num_heads, config.width
        self.ln1 = LayerNorm(f"{name}.ln1", eps, made_of.params, made_of.grads)
        self.qkv = made_of.linear([f"{name}.attn.{part}" for part in "qkv"], frozen)
        self.out = made_of.linear([f"{name}.attn.out"], frozen)
        self.mlp = Mlp(f"{name}.mlp", f"{name}.ln2", eps, made_of, frozen)
        self.layers = self.ln1, self.qkv, self.out, *self.mlp.layers
        self.scratch = made_of.scratch

    def keep(self, rows: int) -> dict[str, Array]:
        """Room for what `backward` needs."""
        kept = {name: with_slack((rows, self.width)) for name in ("x", "+attn")}
        kept |= {name: with_slack((rows, self.width), self.qkv.kind) for name in ("ln1", "mix")}
        kept["qkv"] = with_slack((rows, 3 * self.width))
        self.mlp.keep(rows, kept)
        return kept

    def forward(self, kept: dict[str, Array], length: int, out: Array) -> None:
        """kept["x"] [N * L, D] -> out."""
        y = self.ln1.forward(kept["x"], kept["ln1"])
        qkv = self.qkv.forward(y, kept["qkv"])
        attention.attention(qkv, length, self.num_heads, 0, ALL_VALID, NO_PROBS, kept["mix"])
        x = self.out.forward(kept["mix"], kept["+attn"], residual=kept["x"])
        self.mlp.forward(x, kept, out)

    def backward(self, kept: dict[str, Array], length: int, dx: Array) -> None:
        """dx, the gradient of the result, becomes the gradient of kept["x"]."""
        self.mlp.backward(kept["+attn"], kept, dx)
        self.out.backward_weights(kept["mix"], dx)
        d_mix = self.out.backward_input(dx, self.scratch("y", *dx.shape))
        d_qkv = self.scratch("qkv", *kept["qkv"].shape)
        attention_gradient.attention_gradient(kept["qkv"], d_mix, length, self.num_heads, d_qkv)
        self.qkv.backward_weights(kept["ln1"], d_qkv)
        dy = self.qkv.backward_input(d_qkv, self.scratch("y", *dx.shape))
        self.ln1.backward(kept["x"], dy, dx)


class Blocks:
    """All blocks of a tower, and the final LayerNorm. Those before `first` keep their weights."""

    def __init__(self, tower: str, config: ImageConfig | TextConfig, made_of: Made, first: int) -> None:
        names = [block_name(tower, i) for i in range(config.depth)]
        self.first = first
        self.blocks = [Block(name, config, made_of, i < first) for i, name in enumerate(names)]
        self.final_ln = LayerNorm(f"{tower}.final_ln", config.layer_norm_eps, made_of.params, made_of.grads)
        self.layers = [layer for block in self.blocks for layer in block.layers] + [self.final_ln]

    def keep(self, rows: int) -> list[dict[str, Array]]:
        """Room for what `backward` needs; the last is the final LayerNorm's. Frozen blocks take turns with two."""
        kept = [block.keep(rows) for block in self.blocks[: min(2, self.first)]]
        kept = [kept[i % 2] for i in range(self.first)] + [block.keep(rows) for block in self.blocks[self.first :]]
        width = self.blocks[0].width
        return [*kept, {"x": with_slack((rows, width)), "tokens": with_slack((rows, width))}]

    def forward(self, kept: list[dict[str, Array]], length: int) -> Array:
        """kept[0]["x"] [N * L, D] -> normalised tokens [N * L, D]."""
        for block, own, following in zip(self.blocks, kept, kept[1:], strict=False):
            block.forward(own, length, following["x"])
        return self.final_ln.forward(kept[-1]["x"], kept[-1]["tokens"])

    def backward(self, kept: list[dict[str, Array]], length: int, dy: Array, dx: Array) -> None:
        """dy of the tokens; dx becomes the gradient of what enters the first block that is trained."""
        dx[:] = 0
        self.final_ln.backward(kept[-1]["x"], dy, dx)
        for block, own in zip(reversed(self.blocks[self.first :]), reversed(kept[self.first : -1]), strict=True):
            block.backward(own, length, dx)


class Positions:
    """Position embeddings: what each part of a batch adds to their gradient, in float32, is added up in float64."""

    def __init__(self, name: str, length: int, grads: Values, scratch: Scratch) -> None:
        self.name, self.grads, self.scratch = name, grads, scratch
        self._index = np.tile(np.arange(length, dtype=np.int32), part_size(length))
        self._sum = np.zeros((length, grads[name].shape[1]), np.float64)

    def begin(self) -> None:
        """Forget the gradients of the last batch."""
        self._sum[:] = 0

    def backward(self, dx: Array) -> None:
        """dx [N * L, D] of a part's tokens."""
        part = self.scratch("positions", *self._sum.shape)
        part[:] = 0
        sums.add_rows(dx, self._index[: len(dx)], part)
        self._sum += part

    def end(self) -> None:
        """Write the gradient; positions behind the end of shorter texts have none."""
        self.grads[self.name][: len(self._sum)] = self._sum


class MapHead:
    """Attention pooling by a learned probe, then an MLP with residual."""

    def __init__(self, name: str, config: ImageConfig, made_of: Made, frozen: bool) -> None:
        self.name, self.config, self.params, self.grads = name, config, made_of.params, made_of.grads
        self.kv = made_of.linear([f"{name}.attn.{part}" for part in "kv"], frozen)
        self.out = made_of.linear([f"{name}.attn.out"], frozen)
        self.mlp = Mlp(f"{name}.mlp", f"{name}.ln", config.layer_norm_eps, made_of, frozen)
        self.layers = self.kv, self.out, *self.mlp.layers
        self.scratch = made_of.scratch
        self.q = np.empty(config.width, np.float32)
        self.dq = np.zeros(config.width, np.float64)

    def begin(self) -> None:
        """The query, the same for every image, in float64 and rounded."""
        probe, w, b = (self.params[f"{self.name}.{part}"] for part in ("probe", "attn.q.w", "attn.q.b"))
        self.q[:] = (probe[:, None] * w.astype(np.float64)).sum(axis=0) + b
        self.dq[:] = 0

    def keep(self, n: int) -> dict[str, Array]:
        """Room for what `backward` needs."""
        width, length = self.config.width, self.config.seq_len
        kept = {name: with_slack((n, width)) for name in ("+attn", "pooled")}
        kept["mix"] = with_slack((n, width), self.out.kind)
        kept["kv"] = with_slack((n * length, 2 * width))
        kept["probs"] = np.empty((n, self.config.num_heads, 1, length), np.float32)
        self.mlp.keep(n, kept)
        return kept

    def forward(self, tokens: Array, kept: dict[str, Array]) -> Array:
        """[N * L, D] -> [N, D]."""
        self.kv.forward(tokens, kept["kv"])
        map_pool.map_pool(self.q, kept["kv"], self.config.seq_len, self.config.num_heads, kept["probs"], kept["mix"])
        self.out.forward(kept["mix"], kept["+attn"])
        self.mlp.forward(kept["+attn"], kept, kept["pooled"])
        return kept["pooled"]

    def backward(self, tokens: Array, kept: dict[str, Array], dx: Array) -> Array:
        """dx [N, D] of the result is overwritten; the gradient of the tokens [N * L, D]."""
        self.mlp.backward(kept["+attn"], kept, dx)
        self.out.backward_weights(kept["mix"], dx)
        d_mix = self.out.backward_input(dx, self.scratch("y", *dx.shape))
        d_kv = self.scratch("qkv", *kept["kv"].shape)
        dq = np.empty(dx.shape, np.float64)
        map_pool_gradient.map_pool_gradient(self.q, d_mix, kept["kv"], self.config.num_heads, kept["probs"], d_kv, dq)
        self.dq += dq.sum(axis=0)
        self.kv.backward_weights(tokens, d_kv)
        return self.kv.backward_input(d_kv, self.scratch("tokens", *tokens.shape))

    def end(self) -> None:
        """Write the gradients of the query's layer and the probe."""
        probe, w = self.params[f"{self.name}.probe"], self.params[f"{self.name}.attn.q.w"]
        self.grads[f"{self.name}.attn.q.b"][:] = self.dq
        self.grads[f"{self.name}.attn.q.w"][:] = probe[:, None] * self.dq
        self.grads[f"{self.name}.probe"][:] = (w * self.dq).sum(axis=1)


class Tower:
    """What both towers share: the parts of a batch."""

    def __init__(self, batch: int, length: int, width: int, out_width: int, scratch: Scratch) -> None:
        self.batch, self.length, self.width, self.scratch = batch, length, width, scratch
        self.embeds = np.empty((batch, out_width), np.float32)

    def parts(self) -> Iterator[slice]:
        """Inputs of one part after the other."""
        each = part_size(self.length)
        for first in range(0, self.batch, each):
            yield slice(first, min(first + each, self.batch))


class ImageTower(Tower):
    """Images to vectors, not normalised."""

    def __init__(self, config: ImageConfig, batch: int, made_of: Made, first: int, locked: bool) -> None:
        super().__init__(batch, config.seq_len, config.width, config.width, made_of.scratch)
        self.config, self.params, self.locked = config, made_of.params, locked
        size = config.patch_size
        order = np.arange(size * size * 3).reshape(size, size, 3).transpose(2, 0, 1).ravel()
        self.first = config.depth if locked else first
        self.patch_embed = made_of.linear(["image.patch_embed"], self.first > 0, order)
        self.blocks = Blocks("image", config, made_of, self.first)
        self.head = MapHead("image.map_head", config, made_of, locked)
        self.positions = Positions("image.pos_embed", self.length, made_of.grads, made_of.scratch)
        self.layers = [self.patch_embed, self.positions, *self.blocks.layers, *self.head.layers, self.head]
        parts = list(self.parts())
        kept = [self._keep(part.stop - part.start) for part in (parts[:1] if locked else parts)]
        self._kept = [kept[min(i, len(kept) - 1)] for i in range(len(parts))]

    def _keep(self, n: int) -> tuple[Array, list[dict[str, Array]], dict[str, Array]]:
        rows = n * self.length
        patches = with_slack((rows, 3 * self.config.patch_size**2))
        return patches, self.blocks.keep(rows), self.head.keep(n)

    def forward(self, pixels: Array) -> Array:
        """Pixels [B, 3, S, S] -> [B, D]."""
        for layer in self.layers:
            layer.begin()
        for part, (patches, blocks, head) in zip(self.parts(), self._kept, strict=True):
            if self.locked and len(patches) != (part.stop - part.start) * self.length:
                patches, blocks, head = self._keep(part.stop - part.start)
            patch_embed.patches_by_channel(pixels[part], self.config.patch_size, patches)
            self.patch_embed.forward(patches, blocks[0]["x"], residual=self.params["image.pos_embed"])
            tokens = self.blocks.forward(blocks, self.length)
            self.embeds[part] = self.head.forward(tokens, head)
        return self.embeds

    def backward(self, dz: Array) -> None:
        """dz [B, D], the gradient of the result, which is overwritten."""
        for part, (patches, blocks, head) in zip(self.parts(), self._kept, strict=True):
            dy = self.head.backward(blocks[-1]["tokens"], head, dz[part])
            dx = self.scratch("x", *dy.shape)
            self.blocks.backward(blocks, self.length, dy, dx)
            if self.first == 0:
                self.positions.backward(dx)
                self.patch_embed.backward_weights(patches, dx)
        for layer in self.layers:
            layer.end()


class TextTower(Tower):
    """Texts to vectors, not normalised; pooled at the last position."""

    def __init__(self, config: TextConfig, batch: int, length: int, made_of: Made, first: int) -> None:
        super().__init__(batch, length, config.width, config.projection_dim, made_of.scratch)
        self.params, self.grads, self.first = made_of.params, made_of.grads, first
        self.blocks = Blocks("text", config, made_of, first)
        self.head = made_of.linear(["text.head"], False)
        self.positions = Positions("text.pos_embed", length, made_of.grads, made_of.scratch)
        self.layers = [self.positions, *self.blocks.layers, self.head]
        self._kept = []
        for part in self.parts():
            n = part.stop - part.start
            self._kept.append(
                (self.blocks.keep(n * length), with_slack((n, self.width)), np.empty(n * length, np.int32))
            )

    def forward(self, ids: NDArray[np.integer]) -> Array:
        """Token ids [B, L] -> [B, P], P the projection."""
        for layer in self.layers:
            layer.begin()
        embed, pos_embed = self.params["text.token_embed"], self.params["text.pos_embed"][: self.length]
        for part, (blocks, last, own_ids) in zip(self.parts(), self._kept, strict=True):
            own_ids[:] = ids[part].ravel()
            x = blocks[0]["x"].reshape(-1, self.length, self.width)
            np.add(embed[ids[part]], pos_embed, out=x)
            tokens = self.blocks.forward(blocks, self.length)
            last[:] = tokens[self.length - 1 :: self.length]
            self.head.forward(last, self.embeds[part])
        return self.embeds

    def backward(self, dz: Array) -> None:
        """dz [B, P], the gradient of the result."""
        for part, (blocks, last, ids) in zip(self.parts(), self._kept, strict=True):
            self.head.backward_weights(last, dz[part])
            d_last = self.head.backward_input(dz[part], self.scratch("last", *last.shape))
            dy, dx = (self.scratch(name, *blocks[0]["x"].shape) for name in ("tokens", "x"))
            dy[:] = 0
            dy[self.length - 1 :: self.length] = d_last
            self.blocks.backward(blocks, self.length, dy, dx)
            if self.first == 0:
                sums.add_rows(dx, ids, self.grads["text.token_embed"])
                self.positions.backward(dx)
        for layer in self.layers:
            layer.end()
