"""Small random model folders: written, changed, compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError
from npsiglip.params import random_params
from npsiglip.save import save_folder

IMAGE = ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=17, patch_size=4)
TEXT = TextConfig(width=8, depth=1, num_heads=2, mlp_dim=14, seq_len=5, vocab_size=11, projection_dim=12)
BOTH = SigLIPConfig(IMAGE, TEXT)
PARAMS = random_params(BOTH, seed=1)
FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


def write(folder, config=BOTH, **options):
    save_folder(folder, config, random_params(config, seed=1), **options)
    return folder


def change_tensors(folder, change, metadata=None):
    """The folder, with `change` done to the dictionary of its stored tensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata)
    return folder


def rewrite(folder, change, config=BOTH):
    """A good folder, changed."""
    return change_tensors(write(folder, config), change, {"format": "pt"})


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def assert_same(actual, expected, dtype=np.float32):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == dtype, name
        assert actual[name].shape == value.shape, name
        np.testing.assert_array_equal(actual[name], value.astype(dtype), err_msg=name)


def message(folder):
    """Why a folder, or a file, cannot be opened."""
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    return str(error.value)


towers = st.fixed_dictionaries(
    {
        "num_heads": st.integers(1, 3),
        "depth": st.integers(1, 3),
        "mlp_dim": st.integers(1, 9),
        "width": st.integers(1, 5),
    }
).map(lambda t: t | {"width": t["width"] * t["num_heads"]})


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(["both", "image", "text"]))
    image = ImageConfig(**draw(towers), patch_size=draw(st.integers(1, 4)), image_size=draw(st.integers(4, 9)))
    text = TextConfig(
        **draw(towers),
        seq_len=draw(st.integers(1, 5)),
        vocab_size=draw(st.integers(1, 7)),
        projection_dim=image.width if kind == "both" else draw(st.integers(1, 5)),
    )
    return SigLIPConfig(None if kind == "text" else image, None if kind == "image" else text)


def listing(folder):
    """Every file below, and what is in it."""
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def write_sparse(path, header, size):
    """A safetensors file with `size` bytes of zeros that take no place on the disk, aligned as ours are."""
    head = json.dumps(header).encode()
    head += b" " * (-(8 + len(head)) % 64)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + size)


def sharded(folder):
    """The index of a folder whose weights are in several files."""
    write(folder, max_shard_bytes=4000)
    return folder / "model.safetensors.index.json"
