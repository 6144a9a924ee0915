"""The text tower on Numba kernels; see `npsiglip.towers.blocks`.

Dimensions: N batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import TextConfig
from npsiglip.formats.quantized import gather_rows
from npsiglip.params import Params
from npsiglip.towers.blocks import Blocks, Pass, Tower
from npsiglip.towers.layers import ACTIVATIONS, Array, Layers, Matrix, Room
from npsiglip.trace import Forget, Trace


class TextTower(Tower):
    """Texts to vectors, not normalised. SigLIP attends to padding, and pools the last position; a mask is an option.

    Nobody reads the other positions of the last block: without a trace they are not computed.
    """

    name = "text"

    def __init__(self, params: Params, config: TextConfig, dtype: str = "float32") -> None:
        layers = Layers(params, dtype)
        super().__init__(layers, self._make_pass)
        self.config, self.dtype, self.params = config, dtype, params
        self.pos_embed = layers.array("text.pos_embed")
        self.blocks = Blocks(layers, "text", config, ACTIVATIONS[config.activation])
        self.head = layers.linear("text.head", layers.outer)

    def _make_pass(self, n: int, length: int, masked: bool) -> tuple[tuple[Array, NDArray[np.uint8]], Pass]:
        room = Room()
        work, rest = self.blocks.buffers(n, length, room), self.blocks.buffers(n, 1, room)
        if masked:
            work.valid = np.ones((n, length), np.uint8)
        last = Matrix(n, self.config.width, self.outer, room=room)
        result = np.empty((n, self.config.projection_dim), np.float32)

        def body(trace: Forget) -> Array:
            trace["text.embed"] = work.x
            # all blocks; a trace wants every token of the last one, the result only the last token of each text
            if isinstance(trace, Trace):
                every = Matrix(n * length, self.config.width, self.outer)
                self.blocks(work, work, every, trace)
                last.fill(np.array(every)[length - 1 :: length])
            else:
                self.blocks(work, rest, last, trace)
            trace["text.pooled"] = last
            return self.head(last, result, trace)

        return (work.x.reshape(n, length, -1), work.valid), Pass(body)

    def __call__(self, texts: tuple[NDArray[np.integer], NDArray[np.bool_] | None], trace: Forget) -> Array:
        """Token ids [N, L] and a mask [N, L] or None -> [N, P], P the projection.

        Keys where the mask is False are not attended to.
        """
        ids, mask = texts
        repeat = self.used_before()
        n, length = ids.shape
        # the stream begins with the rows of the ids and of their positions
        (x, valid), run = self.passes(n, length, mask is not None)
        if mask is not None:
            valid[:] = mask
        with np.errstate(over="ignore"):  # what leaves float32 is infinite in the result, too
            np.add(gather_rows(self.params, "text.token_embed", ids, self.dtype), self.pos_embed[:length], out=x)
        return run(trace, repeat)
