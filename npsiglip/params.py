"""The parameters of a SigLIP model: their names, their shapes, and random values for them.

One grammar for parameters and trace taps: `image.blocks.03.attn.q.w`. Linear weights are `w` [in, out] and `b`
[out], so that code reads `x @ w + b`. `image.patch_embed.w` is [P * P * 3, D], its rows ordered (row, column,
channel) as in big_vision's `embedding/kernel`. `t_prime` is log t, a scalar like `bias`.

Source: big_vision `models/vit.py`, `models/proj/image_text/text_transformer.py` and `two_towers.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import InputError

Params = Mapping[str, NDArray[np.floating]]
Shape = tuple[int, ...]


class StoredParams(Mapping[str, NDArray[Any]]):
    """Parameters that lie in files: a mapping like any other, `get` and `in` and all, and two things beyond.

    Where weights are quantised it has, in place of `<layer>.w` of a linear layer, `<layer>.panels` as kernels read
    them, and `.scale` and `.total` for int8; in place of a table its `.q` and `.scale` (`npsiglip.formats.quantized`).
    """

    @abstractmethod
    def rows(self, name: str, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Copies of the rows with these numbers, of any shape, of the table `name` [V, D]: [*rows.shape, D].

        Raises:
            CheckpointError: a value of the table is not finite.
        """

    @abstractmethod
    def release(self, name: str) -> None:
        """Let the memory go that the values of `name` were read into; they are read again when they are used."""


def rows_of(params: Params, name: str, rows: NDArray[np.integer]) -> NDArray[Any]:
    """The rows with these numbers of the table `name`, [*rows.shape, D]; see `StoredParams.rows`."""
    return params.rows(name, rows) if isinstance(params, StoredParams) else params[name][rows]


def release(params: Params, names: Iterable[str]) -> None:
    """Let go of what has been read for good; parameters in memory are their owner's, and stay."""
    if isinstance(params, StoredParams):
        for name in names:
            params.release(name)


def linear_shapes(name: str, n_in: int, n_out: int) -> dict[str, Shape]:
    """Weight and bias of one linear layer."""
    return {f"{name}.w": (n_in, n_out), f"{name}.b": (n_out,)}


def layer_norm_shapes(name: str, width: int) -> dict[str, Shape]:
    """Scale and bias of one LayerNorm."""
    return {f"{name}.scale": (width,), f"{name}.b": (width,)}


def attention_shapes(name: str, width: int) -> dict[str, Shape]:
    """The four linear layers of one attention."""
    return {k: v for part in ("q", "k", "v", "out") for k, v in linear_shapes(f"{name}.{part}", width, width).items()}


def mlp_shapes(name: str, width: int, mlp_dim: int) -> dict[str, Shape]:
    """The two linear layers of one MLP."""
    return linear_shapes(f"{name}.fc1", width, mlp_dim) | linear_shapes(f"{name}.fc2", mlp_dim, width)


def block_name(tower: str, i: int) -> str:
    """The prefix of block `i`, e.g. `image.blocks.03`."""
    return f"{tower}.blocks.{i:02d}"


def _blocks_shapes(tower: str, config: ImageConfig | TextConfig) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i in range(config.depth):
        block = block_name(tower, i)
        shapes |= layer_norm_shapes(f"{block}.ln1", config.width)
        shapes |= attention_shapes(f"{block}.attn", config.width)
        shapes |= layer_norm_shapes(f"{block}.ln2", config.width)
        shapes |= mlp_shapes(f"{block}.mlp", config.width, config.mlp_dim)
    return shapes | layer_norm_shapes(f"{tower}.final_ln", config.width)


def image_shapes(config: ImageConfig) -> dict[str, Shape]:
    """Name -> shape of every parameter of the image tower, in the order of the forward pass."""
    width, head = config.width, "image.map_head"
    tokens = (
        linear_shapes("image.patch_embed", config.patch_size**2 * 3, width)
        | {"image.pos_embed": (config.seq_len, width)}
        | _blocks_shapes("image", config)
    )
    if not config.head:
        return tokens
    return (
        tokens
        | {f"{head}.probe": (width,)}
        | attention_shapes(f"{head}.attn", width)
        | layer_norm_shapes(f"{head}.ln", width)
        | mlp_shapes(f"{head}.mlp", width, config.mlp_dim)
    )


def text_shapes(config: TextConfig) -> dict[str, Shape]:
    """Name -> shape of every parameter of the text tower, in the order of the forward pass."""
    return (
        {
            "text.token_embed": (config.vocab_size, config.width),
            "text.pos_embed": (config.seq_len, config.width),
        }
        | _blocks_shapes("text", config)
        | linear_shapes("text.head", config.width, config.projection_dim)
    )


def param_shapes(config: SigLIPConfig) -> dict[str, Shape]:
    """Name -> shape of every parameter of the model, in the order of the forward pass."""
    image = image_shapes(config.image) if config.image else {}
    text = text_shapes(config.text) if config.text else {}
    together: dict[str, Shape] = {"t_prime": (), "bias": ()} if image and text else {}
    if config.image and config.classifier:
        together = linear_shapes("classifier", config.image.width, len(config.classifier.labels))
    return image | text | together


def count_params(config: SigLIPConfig) -> int:
    """The number of parameters; B/16-224 has 203,155,970."""
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in param_shapes(config).values())


def cast(params: Params, dtype: np.dtype | type) -> dict[str, NDArray[np.floating]]:
    """Every parameter as an array of `dtype`."""
    return {name: np.asarray(value, dtype) for name, value in params.items()}


def check_params(params: Params, config: SigLIPConfig) -> None:
    """Check what kernels rely on: every parameter of `config` is there, in its shape, of a float type, and finite.

    Finite as float32, too, which is what kernels take them as. Others may be there.

    Raises:
        InputError: naming the first that is not.
    """
    for name, shape in param_shapes(config).items():
        if name not in params:
            raise InputError(f"the parameter {name} {list(shape)} is missing; see npsiglip.params.param_shapes(config)")
        value = np.asarray(params[name])
        if value.shape != shape:
            raise InputError(f"{name} must be {list(shape)} by the configuration, got {list(value.shape)}")
        if not np.can_cast(value.dtype, np.float64):
            raise InputError(f"{name} must be of a float type, got {value.dtype}")
        if not np.isfinite(value).all():
            raise InputError(f"{name} must be finite, got NaN or infinity in it")
        if value.dtype.itemsize > 4 and np.abs(value).max(initial=0) > np.finfo(np.float32).max:
            raise InputError(f"{name} is taken as float32, which ends at 3.4e38; got {np.abs(value).max():g} in it")


def random_params(
    config: SigLIPConfig, seed: int, outlier: float = 1.0, dtype: np.dtype | type = np.float32
) -> dict[str, NDArray[np.floating]]:
    """Random parameters in the ranges of a trained model, for tests: no parameter is zero, one, or like another.

    Linear weights are N(0, 1/in), biases N(0, 0.1^2), LayerNorm scales near 1, q and k twice as large so that
    attention is not flat, t = 10 * 11.7 and bias = -12.9 as training ends up near.

    Args:
        config: the model.
        seed: of NumPy's PCG64; every parameter has its own stream, so that changing one shape leaves the others.
        outlier: above 1, three channels of each residual stream carry a constant of about this many times the
            median from the embedding to the last block, and the LayerNorms that read the stream scale them down
            again: what trained ViTs do, in which 100 is common.
        dtype: of the result.
    """
    params: dict[str, NDArray[np.floating]] = {}
    for i, (name, shape) in enumerate(param_shapes(config).items()):
        rng = np.random.default_rng([seed, i])
        values = rng.standard_normal(shape)
        last = name.rsplit(".", 1)[-1]
        if name == "t_prime":
            values = np.array(np.log(117.0))
        elif name == "bias":
            values = np.array(-12.9)
        elif last == "w":
            values *= shape[0] ** -0.5 * (2.0 if ".q." in name or ".k." in name else 1.0)
        elif last == "scale":
            values = 1.0 + 0.2 * values
        elif last == "b":
            values *= 0.1
        elif last == "pos_embed":
            values *= 0.5
        if outlier != 1.0:
            values = _spike(name, values, outlier)
        params[name] = np.asarray(values, dtype)
    return params


def _spike(name: str, values: NDArray[np.float64], outlier: float) -> NDArray[np.float64]:
    """The values [..., D] of a parameter that writes to a residual stream or scales it, changed in three channels."""
    width = values.shape[-1] if values.ndim else 0
    channels, signs = [width // 7, width // 3, width - 2], np.array([1.0, -1.0, 1.0])
    if name.endswith((".patch_embed.b", "text.pos_embed")):
        values[..., channels] += outlier * signs
    elif name.endswith(".mlp.fc2.b") and "map_head" not in name:
        values[channels] += 0.25 * outlier * signs  # the other channels grow with depth, so these must
    elif name.endswith((".ln1.scale", ".ln2.scale", ".final_ln.scale")):
        # What the three alone make of the stream's deviation; a little less, since LayerNorms that give more than
        # they were given let the stream grow block by block and attention amplify rounding errors.
        deviation = 0.8 * outlier * np.sqrt(len(channels) / width)
        scales = values[channels] * np.sqrt(len(channels) / width)
        values *= np.sqrt(1.0 + deviation**2)
        values[channels] = scales
    return values
