"""The recipes of docs/verify.md, run as they stand there: real ports conform, and one mistake in them is found by name.

The code is read out of the page. A port with a mistake is transformers' own model of a folder whose configuration was
changed.
"""

import json
import shutil

import numpy as np
import pytest

from npsiglip import SigLIP
from npsiglip.hub.resolve import model_folder
from npsiglip.verify import Golden, compare
from npsiglip.verify.golden import write_trace
from tests.docs.markdown import DOCS, fenced_blocks
from tests.helpers.golden_data import TINY

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch's exporter

PAGE = DOCS / "verify.md"
MISTAKES = {
    "erf_gelu": ({"hidden_act": "gelu"}, "image.blocks.00.mlp.gelu"),
    "quick_gelu": ({"hidden_act": "quick_gelu"}, "image.blocks.00.mlp.gelu"),
    "layer_norm_eps_1e-5": ({"layer_norm_eps": 1e-5}, "image.blocks.00.ln1"),
}


def blocks_below(heading):
    """The Python of a section of the page."""
    lines = PAGE.read_text(encoding="utf-8").split("\n")
    first = lines.index(heading) + 1
    last = next((i for i in range(first, len(lines)) if lines[i].startswith("#") and is_prose(i)), len(lines))
    return [block.text for block in fenced_blocks(PAGE) if block.language == "py" and first < block.first <= last]


def is_prose(number):
    """Whether a line, from 0, is in no block."""
    return not any(block.first - 1 <= number < block.last for block in fenced_blocks(PAGE))


INPUTS = blocks_below("## Recipes")
RECIPES = {
    "PyTorch": ([*blocks_below("### PyTorch, transformers")], "port.safetensors"),
    "debug tree": ([*blocks_below("### A debug tree of transformers")], "port"),
    "ONNX Runtime": ([*reversed(blocks_below("### ONNX Runtime"))], "port.npz"),
    "OpenVINO": ([*reversed(blocks_below("### ONNX Runtime")), *blocks_below("### OpenVINO")], "port.npz"),
}


@pytest.fixture(scope="module")
def golden():
    model = SigLIP.from_pretrained("builtin")
    return Golden(model, [str(DOCS / "images" / "world-green-circle.png")], ["a green circle", "a red circle"])


def dumped(recipe, folder, golden, place, monkeypatch):
    """Runs a recipe in a folder of its own; the file that it leaves."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    write_trace(place / "golden.npz", golden)
    blocks, file = RECIPES[recipe]
    namespace = {"folder": str(folder)}
    for block in [*INPUTS, *blocks]:
        exec(compile(block, str(PAGE), "exec"), namespace)
    return place / file


def changed(place, **values):
    """The built-in model's folder with other values in both towers' configurations."""
    folder = shutil.copytree(model_folder("builtin"), place / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for tower in ("vision_config", "text_config"):
        config[tower] |= values
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_the_recipes_are_there():
    assert [len(blocks) for blocks, _ in RECIPES.values()] == [1, 1, 2, 3]
    assert len(INPUTS) == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_real_port_conforms(recipe, golden, tmp_path, monkeypatch):
    report = compare(dumped(recipe, model_folder("builtin"), golden, tmp_path, monkeypatch), golden)
    assert (report.verdict, report.dtype) == ("conforms", "float32"), report.sentence()
    assert any("names are those of hf" in what for what in report.assumed)
    shown = report.coverage.compared
    assert shown >= 80
    missing = {tap.split(".", 1)[-1] for tap in report.coverage.missing}
    assert not any("mlp." in tap or "ln1" in tap for tap in missing)  # what hooks see


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_mistake_is_found_by_name(recipe, mistake, golden, tmp_path, monkeypatch):
    values, tap = MISTAKES[mistake]
    report = compare(dumped(recipe, changed(tmp_path, **values), golden, tmp_path, monkeypatch), golden)
    assert (report.verdict, report.first.tap) == ("diverges", tap), report.sentence()
    assert report.diagnosis[0].name == mistake


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_transformers_in_other_types_conforms(attention, dtype, golden, tmp_path, monkeypatch):
    """The recipe, with another way to load the model."""
    blocks, file = RECIPES["PyTorch"]
    loaded = f'from_pretrained(folder, attn_implementation="{attention}", dtype=torch.{dtype})'
    other = [block.replace("from_pretrained(folder)", loaded) for block in blocks]
    assert other != blocks
    monkeypatch.setitem(RECIPES, "PyTorch", (other, file))
    report = compare(dumped("PyTorch", model_folder("builtin"), golden, tmp_path, monkeypatch), golden)
    assert (report.verdict, report.dtype) == ("conforms", dtype), report.sentence()


def test_another_input_is_not_taken_for_a_mistake(golden, tmp_path, monkeypatch):
    """A port that was fed other pixels: its taps are right for these, and the first says so."""
    path = dumped("PyTorch", model_folder("builtin"), golden, tmp_path, monkeypatch)
    model = SigLIP.from_pretrained("builtin")
    other = Golden(model, np.flip(golden["image.pixels"], 3).copy(), golden["text.ids"])
    assert compare(path, other).verdict != "conforms"


GRADIENTS = blocks_below("## Gradients")
PAIRS = (["world-green-circle.png", "example.png", "world-green-circle.png"], ["a green circle", "a photo", "hello"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "autocast"])
@pytest.mark.parametrize("whose", ["builtin", "tiny"])
def test_gradients_of_transformers_conform(attention, dtype, whose, tmp_path, monkeypatch):
    """The recipe, with other ways to load the model; -s shows the ratios that docs/verify.md tells."""
    folder = model_folder("builtin") if whose == "builtin" else TINY
    golden = Golden(SigLIP.from_pretrained(folder), [str(DOCS / "images" / name) for name in PAIRS[0]], PAIRS[1])
    kind = "float32" if dtype == "autocast" else dtype
    loaded = f'from_pretrained(folder, attn_implementation="{attention}", dtype=torch.{kind})'
    block = GRADIENTS[0].replace("from_pretrained(folder)", loaded)
    block = block.replace("torch.tensor(pixels)", "torch.tensor(pixels).to(model.dtype)")
    if dtype == "autocast":
        block = block.replace("output = model(", 'with torch.autocast("cpu", torch.bfloat16):\n    output = model(')
    monkeypatch.setitem(RECIPES, "gradients", ([block], "port.safetensors"))
    path = dumped("gradients", folder, golden, tmp_path, monkeypatch)
    judged_as = "bfloat16" if dtype == "autocast" else dtype
    report = compare(path, golden, dtype=judged_as)
    assert report.verdict == "conforms", report.sentence()
    assert dtype == "autocast" or compare(path, golden).dtype == dtype
    keys = [tap for tap in report.taps if tap.tap.endswith("attn.k.b")]
    worst = [max(tap.added / tap.floor for tap in some) for some in (keys, [t for t in report.taps if t not in keys])]
    print(f"{whose}, {attention}, {dtype}: keys' biases {worst[0]:.2f}, all else {worst[1]:.2f}")
    assert report.coverage.compared == len(golden.params) + 1
    assert report.coverage.missing == ()
    assert "names of gradients are those of hf" in report.assumed


def test_a_detached_branch_in_pytorch_is_found(tmp_path, monkeypatch):
    golden = Golden(SigLIP.from_pretrained("builtin"), [str(DOCS / "images" / name) for name in PAIRS[0]], PAIRS[1])
    hook = "model.vision_model.head.mlp.register_forward_hook(lambda module, args, output: output.detach())\noutput ="
    block = GRADIENTS[0].replace("output =", hook, 1)
    monkeypatch.setitem(RECIPES, "gradients", ([block], "port.safetensors"))
    report = compare(dumped("gradients", model_folder("builtin"), golden, tmp_path, monkeypatch), golden)
    assert (report.verdict, report.first.tap) == ("diverges", "grad.image.map_head.attn.out.w"), report.sentence()
    assert report.diagnosis[0].name == "map_mlp_detached"
    assert "grad.image.map_head.mlp.fc1.w" in report.coverage.missing  # PyTorch has none for what was detached
