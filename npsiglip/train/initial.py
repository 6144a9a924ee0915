"""What the parameters are before the first step: big_vision's initialisation, or another model's parameters.

| parameters | values |
|---|---|
| q, k, v, out, fc1, fc2: `w` | Xavier uniform: within sqrt(6 / (in + out)) |
| fc1, fc2: `b` | normal, deviation 1e-6 |
| patch embedding, text head: `w` | LeCun normal, cut off at two deviations |
| both `pos_embed`, `token_embed` | normal, deviation 1 / sqrt(D) |
| probe | Xavier uniform, as [1, 1, D]: within sqrt(6 / (1 + D)) |
| LayerNorm | scale 1, b 0 |
| every other `b` | 0 |

Source: `models/vit.py` and `models/proj/image_text/text_transformer.py` of big_vision, and flax's defaults where they
say nothing (Dense and Conv: LeCun normal; Embed: normal with the embedding's width as fan-in).
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import GELU_TANH, SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.params import Shape, block_name, param_shapes
from npsiglip.train.config import Config
from npsiglip.train.starting import TOWERS, tower_of

FLOOR = 0.01  # of the mean variance, added to each: noise is not blown up
POOLING = frozenset(f"image.map_head.{name}" for name in ("probe", "attn.q.w", "attn.q.b"))  # makes the one query
CUT_DEVIATION = 0.87962566103423978  # of a standard normal cut off at -2 and 2

Values = NDArray[np.float32]


def xavier(rng: np.random.Generator, shape: Shape, fan_in: int, fan_out: int) -> NDArray[np.float64]:
    """Uniform with the variance 2 / (in + out)."""
    limit = (6.0 / (fan_in + fan_out)) ** 0.5
    return rng.uniform(-limit, limit, shape)


def lecun(rng: np.random.Generator, shape: Shape, fan_in: int) -> NDArray[np.float64]:
    """Normal with the variance 1 / in, values beyond two deviations drawn anew."""
    values = rng.standard_normal(shape)
    while (outside := np.abs(values) > 2.0).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    values *= fan_in**-0.5 / CUT_DEVIATION
    return values


def _initial(name: str, shape: Shape, rng: np.random.Generator) -> NDArray[np.float64]:
    last = name.rsplit(".", 1)[-1]
    if last == "w":
        fresh = name in ("image.patch_embed.w", "text.head.w")
        return lecun(rng, shape, shape[0]) if fresh else xavier(rng, shape, *shape)
    if last == "scale":
        return np.ones(shape)
    if last in ("pos_embed", "token_embed"):
        return rng.normal(0.0, shape[-1] ** -0.5, shape)
    if last == "probe":
        return xavier(rng, shape, 1, shape[-1])
    if ".mlp." in name:
        return rng.normal(0.0, 1e-6, shape)
    return np.zeros(shape)


def initial_params(config: SigLIPConfig, seed: int, t_prime: float, bias: float) -> dict[str, Values]:
    """Name -> float32 array, for training from nothing.

    Every parameter has a stream of its own, from the seed and its name: another depth leaves the other blocks as they
    are.
    """
    params: dict[str, Values] = {}
    for name, shape in param_shapes(config).items():
        rng = np.random.default_rng([seed, crc32(name.encode())])
        params[name] = np.asarray(_initial(name, shape, rng), np.float32)
    params["t_prime"], params["bias"] = np.array(t_prime, np.float32), np.array(bias, np.float32)
    return params


def cosines(size: int) -> NDArray[np.float64]:
    """The discrete cosine transform, an orthonormal basis [size, size]: a row for each frequency."""
    k, x = np.arange(size)[:, None], np.arange(size)[None, :]
    basis: NDArray[np.float64] = np.sqrt(np.where(k == 0, 1.0, 2.0) / size) * np.cos(np.pi * (x + 0.5) * k / size)
    return basis


def whitening(pictures: NDArray[np.uint8], patch_size: int, width: int, scale: float) -> dict[str, Values]:
    """A patch embedding that gives patches of these pictures the same variance in each of its outputs, or nearly.

    Most of the variance of pictures lies in the mean colours of patches, very little in edges: with random weights,
    shapes are learned late. Here an output is one coefficient of the cosine transform of brightness or of one of two
    colour differences, those with the largest variance first, divided by its deviation; the bias lets the mean patch
    come out as zero. (Fast training on CIFAR begins so, with principal components: arXiv:2404.00498, section 3.1.
    Those of patches are close to cosines, which are the same bits however many threads there are.)

    Args:
        pictures: uint8 [n, S, S, 3], a batch.
        patch_size: P.
        width: D of the image tower, at most 3 P^2.
        scale: deviation of every output.

    Raises:
        InputError: a width above 3 P^2.
    """
    n, grid, p = len(pictures), pictures.shape[1] // patch_size, patch_size
    if width > 3 * p * p:
        raise InputError(
            f"a whitening patch embedding has at most {3 * p * p} outputs with patches of {p}, got {width}"
        )
    x = pictures[:, : grid * p, : grid * p].astype(np.float64).reshape(n, grid, p, grid, p, 3)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(n * grid * grid, -1)
    mean = x.mean(axis=0)
    covariance = x.T @ x / len(x) - mean[:, None] * mean  # sums of whole numbers: exact, in any order
    colours = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
    basis = np.einsum("ay,bx,kc->abkyxc", cosines(p), cosines(p), colours).reshape(3 * p * p, -1)
    variance = np.einsum("ij,jk,ik->i", basis, covariance, basis)
    used = np.argsort(-variance, kind="stable")[:width]
    w = (scale / np.sqrt(variance[used] + FLOOR * variance.mean()))[:, None] * basis[used]
    w, mean = 127.5 * w.T, mean / 127.5 - 1.0  # of bytes to [-1, 1]
    return {"image.patch_embed.w": w.astype(np.float32), "image.patch_embed.b": -(mean[:, None] * w).sum(axis=0)}


def frozen_params(config: SigLIPConfig, blocks: int | None) -> frozenset[str]:
    """The names of the parameters before the last `blocks` blocks of each tower, the embeddings among them."""
    if blocks is None:
        return frozenset()
    assert config.image and config.text
    found: set[str] = set()
    for tower, depth in (("image", config.image.depth), ("text", config.text.depth)):
        first = max(0, depth - blocks)
        frozen = [f"{block_name(tower, i)}." for i in range(first)]
        frozen += [f"{tower}.{name}" for name in ("patch_embed.", "pos_embed", "token_embed")] if first else []
        found |= {name for name in param_shapes(config) if name.startswith(tuple(frozen))}
    return frozenset(found)


def locked_params(config: Config) -> frozenset[str]:
    """The names of all parameters that are not trained."""
    train = config.train
    locked = frozenset(name for name in param_shapes(config.siglip) if train.lock and name.startswith(f"{train.lock}."))
    if train.pool == "mean":
        locked |= POOLING
    return locked | frozen_params(config.siglip, train.blocks)


def fitting(folder: str | Path, config: SigLIPConfig, tower: str = "") -> tuple[Checkpoint, list[str]]:
    """A model to start from, and the names of the parameters that are taken from it; of its files the headers are read.

    Args:
        folder: or npz, or a name; see `npsiglip.checkpoint.Checkpoint.open`.
        config: of the model that is trained.
        tower: "image" or "text" for one tower's alone; empty: all.

    Raises:
        CheckpointError: the model cannot be used.
        InputError: it is quantised, has other shapes, or computes what training does not.
    """
    checkpoint = Checkpoint.open(folder)
    if checkpoint.quantized:
        raise InputError(f"{folder} is quantised; training starts from weights of a float type")
    for name in [tower] if tower else TOWERS:
        if tower_of(checkpoint, name).activation != GELU_TANH:
            raise InputError(
                f"the {name} tower of {folder} computes GELU by erf, and training has SigLIP's form by tanh alone: "
                "start from the original model, or, if tanh is right for it, convert it with --gelu tanh"
            )
    prefix = f"{tower}." if tower else ""
    shapes = {name: shape for name, shape in param_shapes(config).items() if name.startswith(prefix)}
    found = {name: shape for name, shape in param_shapes(checkpoint.config).items() if name.startswith(prefix)}
    if tower == "text" and checkpoint.config.text and config.text:
        width, new = checkpoint.config.text.projection_dim, config.text.projection_dim
        if width != new:
            raise InputError(
                f"the text tower of {folder} projects to {width} numbers, and model.image.width is {new}: give the new "
                f"image tower a width of {width}"
            )
    for name in {**shapes, **found}:
        if shapes.get(name) != found.get(name):
            has, wanted = (list(s[name]) if name in s else "nothing" for s in (found, shapes))
            raise InputError(
                f"{folder} has {has} as {name}, [model] asks for {wanted}: leave [model.{name.split('.')[0]}] out, to "
                "take the shapes from there; a tower of other shapes begins anew (train.new)"
            )
    return checkpoint, list(shapes)


def params_of(folder: str | Path, config: SigLIPConfig, tower: str = "") -> dict[str, Values]:
    """The parameters of a model, as float32; arguments and errors as for `fitting`."""
    checkpoint, names = fitting(folder, config, tower)
    return {name: np.asarray(checkpoint[name], np.float32) for name in names}
