"""big_vision's npz, of weights that Hugging Face's `save_pretrained` wrote: embeddings are the folder's, bit for bit.

`big_vision_npz` undoes Hugging Face's published conversion and does not know npsiglip. The same with small models, in
every type and form: tests/formats/test_npz.py.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import family_parity as family
from npsiglip import Checkpoint, SigLIP
from npsiglip.convert.formats import convert
from npsiglip.variants import variant
from tests.helpers import big_vision_npz

RESULTS = ("image_embeds", "text_embeds", "logits_per_image")


def shortened(name, depth):
    """A released configuration with so many blocks in each tower, and few tokens."""
    config = variant(name)
    return replace(
        config,
        image=replace(config.image, depth=depth),
        text=replace(config.text, depth=depth, vocab_size=1000),
    )


def counts(tower):
    """What the weights do not tell."""
    return {"num_attention_heads": tower.num_heads, "num_hidden_layers": tower.depth}


CONFIGS = {
    "siglip-base-patch16-224": variant("siglip-base-patch16-224"),
    "siglip-so400m-patch14-384, 1 block": shortened("siglip-so400m-patch14-384", 1),
    "siglip2-giant-opt-patch16-256, 1 block": shortened("siglip2-giant-opt-patch16-256", 1),
    "siglip2-base-patch16-naflex, 2 blocks": shortened("siglip2-base-patch16-naflex", 2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_are_the_folders_and_back_are_the_same_tensors(name):
    config = CONFIGS[name]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "folder")
        family.make(config, folder)
        arrays = load_file(folder / "model.safetensors")
        given = family.inputs(config, texts=4)
        theirs = SigLIP(config, Checkpoint.open(folder))(*given)
        about = {"vision_config": counts(config.image), "text_config": counts(config.text)}
        for stacked in (False, True):
            path = Path(place, f"{stacked}.npz")
            big_vision_npz.write(path, big_vision_npz.arrays_of(arrays, about, stacked))
            checkpoint = Checkpoint.open(path)
            known = replace(config.image, image_size=config.image.grid_size * config.image.patch_size)
            assert checkpoint.config in (config, replace(config, image=known))
            ours = SigLIP(config, checkpoint)(*given)
            for result in RESULTS:
                np.testing.assert_array_equal(getattr(ours, result), getattr(theirs, result), err_msg=result)
            back = Path(place, "back")
            convert(path, back)
            for key, value in load_file(back / "model.safetensors").items():
                np.testing.assert_array_equal(value, arrays[key], err_msg=key)
            convert(back, Path(place, "back.npz"), stacked=stacked)
            with np.load(path) as first, np.load(Path(place, "back.npz")) as second:
                assert sorted(first.files) == sorted(second.files)
                for key in first.files:
                    assert first[key].tobytes() == second[key].tobytes(), key
            for made in (path, Path(place, "back.npz"), *back.iterdir()):
                made.unlink()
