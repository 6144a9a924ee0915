"""Both towers in training, forward and backward, on kernels. The plain form is `npsiglip.reference.backward`.

A batch goes through a tower in parts of a few inputs, so that what one layer leaves is still in the cache for the next.
What the backward pass of a part needs is on its `Tape`, so memory grows with the batch; the gradients' own arrays are
shared by all parts. The parts' size depends on the shapes alone and parts come in order: the same bits for any number
of threads. Names are those of the parameters and taps.

Beside `npsiglip.towers`, from which only the order of a patch is taken. Those towers pack the weights once and repeat a
recorded pass; these pack them at every step, both ways, and leave what the backward pass reads.

Dimensions: N inputs of a part, L tokens, D width, H heads, M mlp width, P patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, TextConfig
from npsiglip.kernels import attention, attention_gradient, map_pool, map_pool_gradient, patch_embed, sums
from npsiglip.params import block_name
from npsiglip.towers.blocks import ALL_VALID
from npsiglip.towers.image import by_channel
from npsiglip.train.layers import Array, Scratch, TrainedLayerNorm, TrainedLinear, Values, with_slack

ROWS_OF_A_PART = 2048  # tokens: measured, see docs/benchmarks.md
Tape = dict[str, Array]
"""Name -> what the forward pass of one part leaves for the backward pass."""
T = TypeVar("T")
NO_PROBS = np.empty(0, np.float32)


def part_size(length: int) -> int:
    """How many inputs of `length` tokens are a part."""
    return max(1, ROWS_OF_A_PART // length)


class Common(NamedTuple):
    """What all layers of a model share."""

    params: Values
    grads: Values
    scratch: Scratch
    dtype: str

    def linear(self, names: list[str], frozen: bool, order: NDArray[np.intp] | None = None) -> TrainedLinear:
        """A linear layer of these parameters; `frozen` and `order` as `TrainedLinear` has them."""
        return TrainedLinear(names, self.params, self.grads, self.scratch, self.dtype, order, frozen)


class TrainedMlp:
    """x + fc2(gelu(fc1(ln(x)))) of rows [N * L, D], or [N, D] in the MAP head."""

    def __init__(self, name: str, ln: str, eps: float, common: Common, frozen: bool) -> None:
        self.ln = TrainedLayerNorm(ln, eps, common.params, common.grads)
        self.fc1 = common.linear([f"{name}.fc1"], frozen)
        self.fc2 = common.linear([f"{name}.fc2"], frozen)
        self.layers = self.ln, self.fc1, self.fc2
        self.scratch = common.scratch

    def extend(self, tape: Tape, rows: int) -> None:
        """Make room on a tape for `rows` rows."""
        width, mlp_dim = self.fc1.shape
        tape["ln2"] = with_slack((rows, width), self.fc1.kind)
        tape["fc1"], tape["gelu"] = with_slack((rows, mlp_dim)), with_slack((rows, mlp_dim), self.fc2.kind)

    def forward(self, x: Array, tape: Tape, out: Array) -> None:
        """x + mlp(ln(x)) of x [N * L, D], into `out` [N * L, D], which is not x."""
        # y = ln(x)
        y = self.ln.forward(x, tape["ln2"])
        # h = gelu(y w + b)
        h = self.fc1.forward_gelu(y, tape["fc1"], tape["gelu"])
        # x + h w + b
        self.fc2.forward(h, out, residual=x)

    def backward(self, x: Array, tape: Tape, d_x: Array) -> None:
        """d_x [N * L, D], the gradient of the result, becomes that of x [N * L, D]."""
        # through fc2, and the GELU before it
        self.fc2.backward_weights(tape["gelu"], d_x)
        d_h = self.scratch("mlp", *tape["fc1"].shape, kind=self.fc1.kind)
        self.fc2.backward_input_gelu(d_x, tape["fc1"], d_h)
        # through fc1
        self.fc1.backward_weights(tape["ln2"], d_h)
        d_y = self.fc1.backward_input(d_h, self.scratch("y", *x.shape))
        # through the LayerNorm, added to what comes through the residual
        self.ln.backward(x, d_y, d_x)


class TrainedBlock:
    """One pre-LN transformer block: x + attention(ln1(x)), then x + mlp(ln2(x))."""

    def __init__(self, name: str, config: ImageConfig | TextConfig, common: Common, frozen: bool) -> None:
        eps = config.layer_norm_eps
        self.num_heads, self.width = config.num_heads, config.width
        self.ln1 = TrainedLayerNorm(f"{name}.ln1", eps, common.params, common.grads)
        self.qkv = common.linear([f"{name}.attn.{part}" for part in "qkv"], frozen)
        self.out = common.linear([f"{name}.attn.out"], frozen)
        self.mlp = TrainedMlp(f"{name}.mlp", f"{name}.ln2", eps, common, frozen)
        self.layers = self.ln1, self.qkv, self.out, *self.mlp.layers
        self.scratch = common.scratch

    def tape(self, rows: int) -> Tape:
        """Room for `rows` tokens; "x" is for the block's input."""
        tape = {name: with_slack((rows, self.width)) for name in ("x", "+attn")}
        tape |= {name: with_slack((rows, self.width), self.qkv.kind) for name in ("ln1", "mix")}
        tape["qkv"] = with_slack((rows, 3 * self.width))
        self.mlp.extend(tape, rows)
        return tape

    def forward(self, tape: Tape, length: int, out: Array) -> None:
        """tape["x"] [N * L, D] -> `out` [N * L, D]."""
        # y = ln1(x)
        y = self.ln1.forward(tape["x"], tape["ln1"])
        # q, k, v = y w + b
        qkv = self.qkv.forward(y, tape["qkv"])
        # softmax(q k^T / sqrt(Dh)) v
        attention.attention(qkv, length, self.num_heads, 0, ALL_VALID, NO_PROBS, tape["mix"])
        # x += mix w + b
        x = self.out.forward(tape["mix"], tape["+attn"], residual=tape["x"])
        # x += mlp(ln2(x))
        self.mlp.forward(x, tape, out)

    def backward(self, tape: Tape, length: int, d_x: Array) -> None:
        """d_x [N * L, D], the gradient of the result, becomes that of tape["x"]."""
        # through the MLP
        self.mlp.backward(tape["+attn"], tape, d_x)
        # through the output's layer
        self.out.backward_weights(tape["mix"], d_x)
        d_mix = self.out.backward_input(d_x, self.scratch("y", *d_x.shape))
        # through attention, whose probabilities are computed again
        d_qkv = self.scratch("qkv", *tape["qkv"].shape)
        attention_gradient.attention_gradient(tape["qkv"], d_mix, length, self.num_heads, d_qkv)
        # through the layers of q, k and v
        self.qkv.backward_weights(tape["ln1"], d_qkv)
        d_y = self.qkv.backward_input(d_qkv, self.scratch("y", *d_x.shape))
        # through ln1, added to what comes through the residual
        self.ln1.backward(tape["x"], d_y, d_x)


class TrainedBlocks:
    """All blocks of a tower, and the final LayerNorm. Those before `first` are frozen."""

    def __init__(self, tower: str, config: ImageConfig | TextConfig, common: Common, first: int) -> None:
        names = [block_name(tower, i) for i in range(config.depth)]
        self.first = first
        self.blocks = [TrainedBlock(name, config, common, i < first) for i, name in enumerate(names)]
        self.final_ln = TrainedLayerNorm(f"{tower}.final_ln", config.layer_norm_eps, common.params, common.grads)
        self.layers = [layer for block in self.blocks for layer in block.layers] + [self.final_ln]

    def tapes(self, rows: int) -> list[Tape]:
        """One for each block, and the final LayerNorm's. Frozen blocks take turns with two, which nobody reads."""
        two = [block.tape(rows) for block in self.blocks[: min(2, self.first)]]
        tapes = [two[i % 2] for i in range(self.first)] + [block.tape(rows) for block in self.blocks[self.first :]]
        width = self.blocks[0].width
        return [*tapes, {"x": with_slack((rows, width)), "tokens": with_slack((rows, width))}]

    def forward(self, tapes: list[Tape], length: int) -> Array:
        """tapes[0]["x"] [N * L, D] -> normalised tokens [N * L, D]."""
        for block, own, following in zip(self.blocks, tapes, tapes[1:], strict=False):
            block.forward(own, length, following["x"])
        return self.final_ln.forward(tapes[-1]["x"], tapes[-1]["tokens"])

    def backward(self, tapes: list[Tape], length: int, d_y: Array, d_x: Array) -> None:
        """From d_y [N * L, D] of the tokens to the gradient of what enters the first block that is trained.

        The latter is written to d_x [N * L, D].
        """
        d_x[:] = 0
        self.final_ln.backward(tapes[-1]["x"], d_y, d_x)
        for block, own in zip(reversed(self.blocks[self.first :]), reversed(tapes[self.first : -1]), strict=True):
            block.backward(own, length, d_x)


class TrainedPositions:
    """Position embeddings [L, D]. Gradients of a part of a batch are float32, and added up in float64."""

    def __init__(self, name: str, length: int, grads: Values, scratch: Scratch) -> None:
        self.name, self.grads, self.scratch = name, grads, scratch
        self._index = np.tile(np.arange(length, dtype=np.int32), part_size(length))
        self._sum = np.zeros((length, grads[name].shape[1]), np.float64)

    def begin(self) -> None:
        """Forget the gradients of the last batch."""
        self._sum[:] = 0

    def backward(self, d_x: Array) -> None:
        """Add what d_x [N * L, D], the gradient of a part's tokens, has for each position."""
        part = self.scratch("positions", *self._sum.shape)
        part[:] = 0
        sums.add_rows(d_x, self._index[: len(d_x)], part)
        self._sum += part

    def end(self) -> None:
        """Write the gradient; positions behind the end of shorter texts have none."""
        self.grads[self.name][: len(self._sum)] = self._sum


class TrainedMapHead:
    """Attention pooling by a learned probe, then an MLP with residual: tokens [N * L, D] -> [N, D]."""

    def __init__(self, name: str, config: ImageConfig, common: Common, frozen: bool) -> None:
        self.name, self.config, self.params, self.grads = name, config, common.params, common.grads
        self.kv = common.linear([f"{name}.attn.{part}" for part in "kv"], frozen)
        self.out = common.linear([f"{name}.attn.out"], frozen)
        self.mlp = TrainedMlp(f"{name}.mlp", f"{name}.ln", config.layer_norm_eps, common, frozen)
        self.layers = self.kv, self.out, *self.mlp.layers
        self.scratch = common.scratch
        self.q = np.empty(config.width, np.float32)
        self.d_q = np.zeros(config.width, np.float64)

    def begin(self) -> None:
        """The query, the same for every image, in float64 and rounded."""
        probe, w, b = (self.params[f"{self.name}.{part}"] for part in ("probe", "attn.q.w", "attn.q.b"))
        self.q[:] = (probe[:, None] * w.astype(np.float64)).sum(axis=0) + b
        self.d_q[:] = 0

    def tape(self, n: int) -> Tape:
        """Room for `n` images."""
        width, length = self.config.width, self.config.seq_len
        tape = {name: with_slack((n, width)) for name in ("+attn", "pooled")}
        tape["mix"] = with_slack((n, width), self.out.kind)
        tape["kv"] = with_slack((n * length, 2 * width))
        tape["probs"] = np.empty((n, self.config.num_heads, 1, length), np.float32)
        self.mlp.extend(tape, n)
        return tape

    def forward(self, tokens: Array, tape: Tape) -> Array:
        """Tokens [N * L, D] -> [N, D]."""
        # k, v = tokens w + b
        self.kv.forward(tokens, tape["kv"])
        # x = (softmax(q k^T / sqrt(Dh)) v) w + b
        map_pool.map_pool(self.q, tape["kv"], self.config.seq_len, self.config.num_heads, tape["probs"], tape["mix"])
        self.out.forward(tape["mix"], tape["+attn"])
        # x += mlp(ln(x))
        self.mlp.forward(tape["+attn"], tape, tape["pooled"])
        return tape["pooled"]

    def backward(self, tokens: Array, tape: Tape, d_x: Array) -> Array:
        """From d_x [N, D] of the result, which is overwritten, to the gradient of the tokens [N * L, D]."""
        # through the MLP and the output's layer
        self.mlp.backward(tape["+attn"], tape, d_x)
        self.out.backward_weights(tape["mix"], d_x)
        d_mix = self.out.backward_input(d_x, self.scratch("y", *d_x.shape))
        # through attention; all images have one query, so its gradients are added up
        d_kv = self.scratch("qkv", *tape["kv"].shape)
        d_q = np.empty(d_x.shape, np.float64)
        map_pool_gradient.map_pool_gradient(self.q, d_mix, tape["kv"], self.config.num_heads, tape["probs"], d_kv, d_q)
        self.d_q += d_q.sum(axis=0)
        # through the layers of k and v
        self.kv.backward_weights(tokens, d_kv)
        return self.kv.backward_input(d_kv, self.scratch("tokens", *tokens.shape))

    def end(self) -> None:
        """Write the gradients of the query's layer and the probe, of q = probe w + b."""
        probe, w = self.params[f"{self.name}.probe"], self.params[f"{self.name}.attn.q.w"]
        self.grads[f"{self.name}.attn.q.b"][:] = self.d_q
        self.grads[f"{self.name}.attn.q.w"][:] = probe[:, None] * self.d_q
        self.grads[f"{self.name}.probe"][:] = (w * self.d_q).sum(axis=1)


class TrainedTower:
    """What both towers share: the parts of a batch."""

    def __init__(self, batch: int, length: int, width: int, out_width: int, scratch: Scratch) -> None:
        self.batch, self.length, self.width, self.scratch = batch, length, width, scratch
        self.embeds = np.empty((batch, out_width), np.float32)

    def parts(self) -> Iterator[slice]:
        """Inputs of one part after the other."""
        each = part_size(self.length)
        for first in range(0, self.batch, each):
            yield slice(first, min(first + each, self.batch))

    def tapes_of_parts(self, make: Callable[[int], T], locked: bool) -> list[T]:
        """Room for each part, which `make` makes for so many inputs. Parts of a locked tower share it by their size."""
        sizes = [part.stop - part.start for part in self.parts()]
        if not locked:
            return [make(n) for n in sizes]
        shared = {n: make(n) for n in dict.fromkeys(sizes)}
        return [shared[n] for n in sizes]


class TrainedImageTower(TrainedTower):
    """Images to vectors, not normalised."""

    def __init__(self, config: ImageConfig, batch: int, common: Common, first: int, locked: bool) -> None:
        super().__init__(batch, config.seq_len, config.width, config.width, common.scratch)
        self.config, self.params = config, common.params
        order = by_channel(np.arange(3 * config.patch_size**2)[:, None])[0]
        self.first = config.depth if locked else first
        self.patch_embed = common.linear(["image.patch_embed"], self.first > 0, order)
        self.blocks = TrainedBlocks("image", config, common, self.first)
        self.head = TrainedMapHead("image.map_head", config, common, locked)
        self.positions = TrainedPositions("image.pos_embed", self.length, common.grads, common.scratch)
        self.layers = [self.patch_embed, self.positions, *self.blocks.layers, *self.head.layers, self.head]
        self._tapes = self.tapes_of_parts(self._make_tapes, locked)

    def _make_tapes(self, n: int) -> tuple[Array, list[Tape], Tape]:
        rows = n * self.length
        patches = with_slack((rows, 3 * self.config.patch_size**2))
        return patches, self.blocks.tapes(rows), self.head.tape(n)

    def forward(self, pixels: Array) -> Array:
        """Pixels [B, 3, S, S] -> [B, D]."""
        # pack the parameters as they are now, and forget the last batch's gradients
        for layer in self.layers:
            layer.begin()
        for part, (patches, blocks, head) in zip(self.parts(), self._tapes, strict=True):
            # x = patches w + b + positions
            patch_embed.patches_by_channel(pixels[part], self.config.patch_size, patches)
            self.patch_embed.forward(patches, blocks[0]["x"], residual=self.params["image.pos_embed"])
            # all blocks, and the MAP head
            tokens = self.blocks.forward(blocks, self.length)
            self.embeds[part] = self.head.forward(tokens, head)
        return self.embeds

    def backward(self, d_z: Array) -> None:
        """From d_z [B, D], the gradient of the result, which is overwritten, to those of the parameters."""
        for part, (patches, blocks, head) in zip(self.parts(), self._tapes, strict=True):
            # the MAP head, then all blocks that are trained
            d_y = self.head.backward(blocks[-1]["tokens"], head, d_z[part])
            d_x = self.scratch("x", *d_y.shape)
            self.blocks.backward(blocks, self.length, d_y, d_x)
            # positions and the patch embedding, which are frozen with the first block
            if self.first == 0:
                self.positions.backward(d_x)
                self.patch_embed.backward_weights(patches, d_x)
        for layer in self.layers:
            layer.end()


class TrainedTextTower(TrainedTower):
    """Texts to vectors, not normalised; pooled at the last position."""

    def __init__(self, config: TextConfig, batch: int, length: int, common: Common, first: int, locked: bool) -> None:
        super().__init__(batch, length, config.width, config.projection_dim, common.scratch)
        self.params, self.grads = common.params, common.grads
        self.first = config.depth if locked else first
        self.blocks = TrainedBlocks("text", config, common, self.first)
        self.head = common.linear(["text.head"], locked)
        self.positions = TrainedPositions("text.pos_embed", length, common.grads, common.scratch)
        self.layers = [self.positions, *self.blocks.layers, self.head]
        self._tapes = self.tapes_of_parts(self._make_tapes, locked)

    def _make_tapes(self, n: int) -> tuple[list[Tape], Array, NDArray[np.int32]]:
        rows = n * self.length
        return self.blocks.tapes(rows), with_slack((n, self.width)), np.empty(rows, np.int32)

    def forward(self, ids: NDArray[np.integer]) -> Array:
        """Token ids [B, L] -> [B, P], P the projection."""
        # pack the parameters as they are now, and forget the last batch's gradients
        for layer in self.layers:
            layer.begin()
        embed, pos_embed = self.params["text.token_embed"], self.params["text.pos_embed"][: self.length]
        for part, (blocks, last, own_ids) in zip(self.parts(), self._tapes, strict=True):
            # x = rows of the ids + positions
            own_ids[:] = ids[part].ravel()
            x = blocks[0]["x"].reshape(-1, self.length, self.width)
            np.add(embed[ids[part]], pos_embed, out=x)
            # all blocks, and the projection of the last token
            tokens = self.blocks.forward(blocks, self.length)
            last[:] = tokens[self.length - 1 :: self.length]
            self.head.forward(last, self.embeds[part])
        return self.embeds

    def backward(self, d_z: Array) -> None:
        """From d_z [B, P], the gradient of the result, to those of the parameters."""
        for part, (blocks, last, ids) in zip(self.parts(), self._tapes, strict=True):
            # the projection of the last token; all other tokens have no gradient
            self.head.backward_weights(last, d_z[part])
            d_last = self.head.backward_input(d_z[part], self.scratch("last", *last.shape))
            d_y, d_x = (self.scratch(name, *blocks[0]["x"].shape) for name in ("tokens", "x"))
            d_y[:] = 0
            d_y[self.length - 1 :: self.length] = d_last
            self.blocks.backward(blocks, self.length, d_y, d_x)
            # positions and rows of the table, which are frozen with the first block
            if self.first == 0:
                sums.add_rows(d_x, ids, self.grads["text.token_embed"])
                self.positions.backward(d_x)
        for layer in self.layers:
            layer.end()
