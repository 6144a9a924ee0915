"""The arithmetic of a tower: two FLOP, a multiplication and an addition, for every term of every matrix product.

Dimensions: N batch, L tokens, D width, M mlp width, P patch, Q projection.

    a block         L (8 D^2 + 4 D M)    q, k, v, out; fc1, fc2
                    4 L^2 D              queries with keys, probabilities with values, all heads together
    image tower     6 L P^2 D            patch embedding
                    4 L D^2 + 4 L D      MAP head: k and v of the tokens; one query with the keys, probabilities
                    2 D^2 + 4 D M        MAP head: out; fc1, fc2
    text tower      2 D Q                head

LayerNorm, softmax, GELU and sums of residuals are left out: they are below 1 % of it. So is the MAP head's own query,
the same for every input. The count is that of the model, not of an implementation: who computes more gets no credit.
"""

from __future__ import annotations

from npsiglip.bench.cases import Case
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig


def blocks_flop(config: ImageConfig | TextConfig) -> int:
    """All blocks of a tower, for one input."""
    length, width = config.seq_len, config.width
    return config.depth * (length * (8 * width**2 + 4 * width * config.mlp_dim) + 4 * length**2 * width)


def image_flop(config: ImageConfig) -> int:
    """One image; B/16-224 has 35 GFLOP."""
    length, width = config.seq_len, config.width
    patch_embed = 6 * length * config.patch_size**2 * width
    pooling = 4 * length * width**2 + 4 * length * width
    return blocks_flop(config) + patch_embed + pooling + 2 * width**2 + 4 * width * config.mlp_dim


def text_flop(config: TextConfig) -> int:
    """One text of full length."""
    return blocks_flop(config) + 2 * config.width * config.projection_dim


def case_flop(case: Case, config: SigLIPConfig) -> int:
    """The whole batch of a case."""
    if case.tower == "image":
        assert config.image
        return case.batch * image_flop(config.image)
    assert config.text
    return case.batch * text_flop(config.text)
