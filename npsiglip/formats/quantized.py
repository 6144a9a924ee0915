"""Models in 8 bits as they are stored, the counterpart of `npsiglip.params`: which tensors, of which type and shape.

A quantised folder is a model folder whose config.json has an entry `quantization_config` of ours, and whose linear
layers are stored as kernels read them (`npsiglip.kernels.pack`, `npsiglip.kernels.quantize`), [K, N] in panels of 16
columns:

    layers in blocks     <layer>.panels  int8      [ceil(N / 16), ceil(K / 4), 16, 4]
                         <layer>.scale   float32   [N],   .total  int32 [N],   .b  float32 [N]
    all other layers     <layer>.panels  bfloat16  [ceil(N / 16), ceil(K / 2), 16, 2],   .b  float32 [N]

q, k and v of a block are one layer `attn.qkv`, k and v of the MAP head one layer `attn.kv`. Of its probe and its q is
left what they make, `image.map_head.query` float32 [D]. Rows of the token embedding are int8 with a scale for each, as
columns of a layer are:

    row = scale q,   q in -127 .. 127,   scale = max |row| / 127

Everything else is float32 and named as in `npsiglip.params`.

Left out: making such a folder (`npsiglip.convert.quantize`) and reading it (`npsiglip.checkpoint`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.element_types import ELEMENT_TYPES, INT8, LANES
from npsiglip.errors import CheckpointError
from npsiglip.formats.stored import Spec
from npsiglip.params import Params, Shape, param_shapes, rows_of

MARKER = "quantization_config"  # the entry in config.json; without a `quant_method` transformers refuses the folder
LIBRARY = "npsiglip"
FORMAT = 1
DTYPE = INT8.name

TABLE = "text.token_embed"
QUERY = "image.map_head.query"

MOST = np.float32(127)
LEAST = np.float32(1e-36)  # where 127 / x is still a number; rows of smaller ones are rounded to zeros


def stored_layer(name: str) -> str:
    """The stored layer that the linear layer `name` is part of, or is."""
    place, _, part = name.rpartition(".")
    if part not in ("q", "k", "v"):
        return name
    return f"{place}.{'kv' if place.startswith('image.map_head') else 'qkv'}"


def _layer_specs(layer: str, k: int, n: int) -> dict[str, Spec]:
    """The tensors of a stored layer [K, N]."""
    kind = INT8 if ".blocks." in layer else ELEMENT_TYPES[INT8.outer]
    panels = -(-n // LANES), kind.steps(k), LANES, kind.per_step
    specs = {f"{layer}.panels": Spec(kind.tensor, panels), f"{layer}.b": Spec("F32", (n,))}
    if kind.scaled:
        specs |= {f"{layer}.scale": Spec("F32", (n,)), f"{layer}.total": Spec("I32", (n,))}
    return specs


def stored_layers(shapes: Mapping[str, Shape]) -> dict[str, tuple[int, int]]:
    """Name -> K, N of the layers that kernels read, from the shapes of a model's parameters."""
    layers: dict[str, tuple[int, int]] = {}
    for name, shape in shapes.items():
        if name.endswith(".w") and name != "image.map_head.attn.q.w":
            layer = stored_layer(name.removesuffix(".w"))
            layers[layer] = shape[0], layers.get(layer, (0, 0))[1] + shape[1]
    return layers


def quantized_specs(config: SigLIPConfig) -> dict[str, Spec]:
    """Name -> type and shape of every tensor of a quantised folder.

    In the order of the file, in which the panels come first, since their sizes are multiples of a cache line; and the
    table comes last, since its size may be odd.
    """
    shapes = param_shapes(config)
    specs: dict[str, Spec] = {}
    for layer, (k, n) in stored_layers(shapes).items():
        specs |= _layer_specs(layer, k, n)
    for name, shape in shapes.items():
        if name == "image.map_head.probe":
            specs[QUERY] = Spec("F32", shape)
        elif name == TABLE:
            specs |= {f"{TABLE}.q": Spec("I8", shape), f"{TABLE}.scale": Spec("F32", shape[:1])}
        elif f"{name.rpartition('.')[0]}.w" not in shapes:  # not of a linear layer
            specs[name] = Spec("F32", shape)
    return dict(sorted(specs.items(), key=lambda item: (not item[0].endswith(".panels"), item[0] == f"{TABLE}.q")))


def marker(version: str) -> dict[str, Any]:
    """What config.json says of a quantised folder written by `version` of npsiglip."""
    return {"library": LIBRARY, "format": FORMAT, "dtype": DTYPE, "version": version}


def is_quantized(folder: Path) -> bool:
    """Whether the folder's config.json, which is a JSON object, says that its weights are as described here.

    Raises:
        CheckpointError: it says so of another format.
    """
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(MARKER)
    if not isinstance(found, dict) or found.get("library") != LIBRARY:
        return False
    if (found.get("format"), found.get("dtype")) != (FORMAT, DTYPE):
        raise CheckpointError(
            f"{folder} holds weights quantised by {LIBRARY} {found.get('version')}, to {found.get('dtype')} in format "
            f"{found.get('format')}; this version reads {DTYPE} in format {FORMAT}: quantise the original model again "
            "with `npsiglip quantize`"
        )
    return True


def quantize_table(rows: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rows [..., D] of any float type -> q int8 [..., D] and scale float32 [...]; a row of zeros has the scale 0."""
    values = np.asarray(rows, np.float32)
    largest = np.abs(values).max(-1)
    inverse = np.divide(MOST, largest, out=np.zeros_like(largest), where=largest > LEAST)
    return np.rint(values * inverse[..., None]).astype(np.int8), largest / MOST


def gather_rows(params: Params, name: str, ids: NDArray[np.integer], dtype: str) -> NDArray[np.float32]:
    """Rows of the table `name` as a model of `dtype` sees them, float32 [*ids.shape, D]; the table stays as stored."""
    if f"{name}.q" in params:
        q, scale = params[f"{name}.q"][ids], params[f"{name}.scale"][ids]
    else:
        found = rows_of(params, name, ids)
        if dtype != DTYPE:
            return np.asarray(found, np.float32)
        q, scale = quantize_table(found)
    rows: NDArray[np.float32] = np.multiply(q, scale[..., None], dtype=np.float32)
    return rows
