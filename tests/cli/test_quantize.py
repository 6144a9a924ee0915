"""`npsiglip quantize`: the model it writes, what it says, and what it refuses."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.command import LABEL_OPTIONS, assert_refused, change_weights, run, set_nan
from tests.helpers.golden_data import TINY
from tests.helpers.model_folders import FC1

# What is computed in


@pytest.mark.parametrize("options", [[], ["--dtype", "int8"]])
def test_a_quantised_model_gives_what_the_original_gives_in_int8(images, quantized, options):
    original = run("classify", *images, *LABEL_OPTIONS, "--json", "--dtype", "int8").stdout
    result = run("classify", *images, *LABEL_OPTIONS, "--json", *options, model=quantized)
    assert (result.exit_code, result.stderr, result.stdout) == (0, "", original)
    assert original != run("classify", *images, *LABEL_OPTIONS, "--json").stdout
    for model, output in ((TINY, "original.npy"), (quantized, "quantised.npy")):
        assert run("embed", "a cat", images[0], "-o", output, "--dtype", "int8", model=model).exit_code == 0
    assert Path("original.npy").read_bytes() == Path("quantised.npy").read_bytes()


# quantize


def test_quantize_tells_the_sizes(images):
    result = run("quantize", TINY, "-o", "tiny-int8", model=None)
    before, after = ((f / "model.safetensors").stat().st_size for f in (TINY, Path("tiny-int8")))
    megabytes = f"{after / 1e6:.1f} MB of weights, {after / before:.0%} of the {before / 1e6:.1f} MB of {TINY}"
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"tiny-int8: int8, {megabytes}\n"


BAD_QUANTIZATIONS = {
    "no model": (["nowhere", "-o", "new"], ["nowhere does not exist"]),
    "quantised": (["quantised", "-o", "new"], ["quantised is quantised already", "expected the original"]),
    "itself": (["model", "-o", "model"], ["model is the model itself", "choose another folder"]),
    "another": (["model", "-o", "quantised"], ["quantised already holds a model (config.json, model.safetensors)"]),
    "a file": (["model", "-o", "one.png"], ["'one.png' ends in .png, and a folder is what would be written"]),
    "below a file": (["model", "-o", "one.png/new"], ["one.png/new cannot be written"]),
    "NaN": (["damaged", "-o", "new"], [FC1, "1 of 1,872 values not finite"]),
}


@pytest.mark.parametrize("args, phrases", BAD_QUANTIZATIONS.values(), ids=BAD_QUANTIZATIONS)
def test_what_is_not_quantised(images, quantized, args, phrases):
    shutil.copytree(quantized, "quantised")
    for name in ("model", "damaged"):
        shutil.copytree(TINY, name)
    change_weights(set_nan)(Path("damaged"))
    before = sorted(Path().rglob("*"))
    assert_refused(run("quantize", *args, model=None), *phrases)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("args", [["quantize"], ["quantize", "model"], ["quantize", "-o", "x"]])
def test_quantize_wants_both_folders(args):
    result = run(*args, model=None)
    assert result.exit_code == 2
    assert "Missing" in result.stderr
