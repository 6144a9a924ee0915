"""`npsiglip verify --published`: what is compared with what, on a stand-in, since no released checkpoint is here.

Covers published/inputs.py, published/numbers.py and cli/published.py as well.
"""

import io
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from PIL import Image

from npsiglip import InputError, SigLIP, reference
from npsiglip.errors import CheckpointError
from npsiglip.published import check, inputs
from npsiglip.published import numbers as published
from npsiglip.published.numbers import Case
from npsiglip.reference.model import l2_normalize
from npsiglip.variants import VARIANTS
from tests.helpers.command import invoke
from tests.helpers.golden_data import TINY

NAME = "siglip-base-patch16-224"
TEXTS = ("an apple", "a picture of an apple")


def save_tensor(path, values, module="torch._utils"):
    """A file as `torch.save` writes it, strides kept; nothing of PyTorch is needed."""
    fakes = {name: types.ModuleType(name) for name in ("torch", module)}
    storage, rebuild = type("FloatStorage", (), {}), lambda *_: None
    storage.__module__, storage.__qualname__ = "torch", "FloatStorage"
    rebuild.__module__, rebuild.__qualname__ = module, "_rebuild_tensor_v2"
    fakes["torch"].FloatStorage, fakes[module]._rebuild_tensor_v2 = storage, rebuild

    class Storage:
        pass

    class Tensor:
        def __reduce__(self):
            strides = tuple(stride // 4 for stride in values.strides)
            return rebuild, (Storage(), 0, values.shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", storage, "0", "cpu", values.size) if isinstance(value, Storage) else None

    stream = io.BytesIO()
    kept = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        Pickler(stream, 2).dump(Tensor())
    finally:
        for name, value in kept.items():
            sys.modules.pop(name) if value is None else sys.modules.update({name: value})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/data/0", np.asarray(values).ravel(order="K").tobytes())


@pytest.fixture
def pixels(tiny_config):
    size = tiny_config.image.image_size
    return np.random.default_rng(5).uniform(-1, 1, (2, 3, size, size)).astype(np.float32)


@pytest.fixture
def files(tmp_path, pixels, tiny_config):
    """A folder with the pictures."""
    save_tensor(tmp_path / inputs.pixels_name(tiny_config.image.image_size), pixels)
    Image.new("RGB", (20, 15), "orange").save(tmp_path / inputs.CATS)
    return tmp_path


@pytest.fixture
def standin(monkeypatch, tiny_params, tiny_config, pixels, files):
    """The tiny model under the name of a released one, and what the float64 reference says of it as published."""
    model = SigLIP.from_pretrained(TINY)
    asked = []

    def load(name):
        asked.append(name)
        return model

    ids = model.tokenizer(TEXTS)
    ztxt = l2_normalize(reference.text_tower(tiny_params, tiny_config.text, ids))

    def logits(images):
        zimg = l2_normalize(reference.image_tower(tiny_params, tiny_config.image, images))
        return np.exp(tiny_params["t_prime"]) * zimg @ ztxt.T + tiny_params["bias"]

    cats = model.processor(files / inputs.CATS)
    cases = (
        # without what pads them, as the sources print them
        Case(NAME, "token ids", "", TEXTS, tuple(tuple(row[: row.index(1)]) for row in ids.tolist()), 0, 0, "a"),
        Case(NAME, "logits", "authors' pixels", TEXTS, tuple(map(tuple, logits(pixels))), 1e-4, 1e-5, "b"),
        Case(NAME, "probabilities", "cats", TEXTS, tuple(map(tuple, 1 / (1 + np.exp(-logits(cats))))), 1e-4, 0, "c"),
    )
    monkeypatch.setattr(SigLIP, "from_pretrained", load)
    monkeypatch.setattr(published, "CASES", cases)
    return asked


def test_published_cases_are_of_released_checkpoints_and_complete():
    for case in published.CASES:
        assert case.model in VARIANTS
        size = VARIANTS[case.model].image_size
        images = {"authors' pixels": 2, "cats": 1, "circles": len(inputs.circles())}.get(case.images)
        shape = (len(case.texts),) if images is None else (images, len(case.texts))
        assert len(case.expected) == shape[0]
        assert images is None or {len(row) for row in case.expected} == {shape[1]}
        assert case.images != "authors' pixels" or inputs.pixels_name(size).endswith(".pt")


@pytest.mark.parametrize(
    ("off", "equal"), [(0.0, True), (2e-4, True), (2.2e-4, False), (-2.2e-4, False), (np.nan, False)]
)
def test_tolerance_is_the_sources(off, equal):
    case = Case(NAME, "logits", "cats", ("a", "b"), ((1.0, -10.0),), 1e-4, 1e-5, "")  # 1e-4 + 1e-5 * 10 at the second
    expected = np.array(case.expected)
    result = check.Result(case, expected, expected + np.array([0, off]))
    assert result.equal is equal
    assert not check.Result(case, expected, expected + np.array([1.2e-4, 0])).equal


def test_a_model_like_the_published_one_is_equal(standin, files):
    results = list(check.check(NAME, files))
    assert standin == [f"google/{NAME}"]
    assert [result.case.what for result in results] == ["token ids", "logits", "probabilities"]
    assert all(result.equal for result in results)
    assert results[0].obtained.shape == results[0].expected.shape  # padded like the model's


def test_tensors_with_any_strides_are_read(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for tensor in (values, values.transpose(2, 0, 1), values[:1].transpose(0, 2, 1)):
        save_tensor(tmp_path / "x.pt", tensor)
        found = inputs.read_tensor(tmp_path / "x.pt")
        np.testing.assert_array_equal(found, tensor)


def test_what_is_no_tensor_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match=r"x\.pt cannot be read"):
        inputs.read_tensor(path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a zip file"):
        inputs.read_tensor(path)
    save_tensor(path, np.zeros((2, 3), np.float32), module="os")
    with pytest.raises(InputError, match=r"one float32 tensor, got os\._rebuild_tensor_v2"):
        inputs.read_tensor(path)
    save_tensor(path, np.broadcast_to(np.float32(1), (2, 0)))
    with pytest.raises(InputError, match=r"\[2, 0\] .* does not fit"):
        inputs.read_tensor(path)


def test_pixels_of_another_size_are_refused(tmp_path):
    save_tensor(tmp_path / "siglip_pixel_values.pt", np.zeros((2, 3, 5, 5), np.float32))
    with pytest.raises(InputError, match=r"holds \[2, 3, 5, 5\], expected pixels \[2, 3, 224, 224\]"):
        inputs.bring("authors' pixels", 224, tmp_path)


def test_circles_are_blue_on_red_with_a_green_border():
    for image, (width, height) in zip(inputs.circles(), [(224, 224), (1024, 1024), (1024, 224)], strict=True):
        assert image.size == (width, height)
        assert image.getpixel((0, 0)) == (255, 0, 0)
        assert image.getpixel((width // 2, height // 2)) == (0, 0, 255)
        radius = min(width // 2, height // 2) // 8 * 7
        assert image.getpixel((width // 2 - radius + 2, height // 2)) == (0, 128, 0)


def run(*arguments):
    result = invoke("verify", *arguments, catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_command_prints_expected_obtained_tolerance_and_source(standin, files):
    code, stdout, stderr = run("--published", NAME, "--files", files)
    assert (code, stderr) == (0, "3 of 3 as published\n")
    assert stdout.count(": equal") == 3
    lines = stdout.splitlines()
    assert lines[0] == f"{NAME}: token ids, 2 texts"
    assert [line.split()[0] for line in lines[1:] if line[2] != " "][:4] == ["expected", "obtained", "apart", "source"]
    assert "tolerance 0.0001 + 1e-05 of the number" in stdout
    assert lines[-1] == "  source    transformers, c"


def test_command_tells_what_differs(standin, files, monkeypatch):
    case = published.CASES[1]
    other = Case(NAME, "logits", case.images, TEXTS, ((0.0, 0.0), (0.0, 0.0)), 1e-4, 1e-5, "b")
    monkeypatch.setattr(published, "CASES", (published.CASES[0], other))
    code, stdout, stderr = run("--published", NAME, "--files", files, "--json")
    assert (code, stderr) == (1, "1 of 2 as published\n")
    found = json.loads(stdout)
    assert [row["equal"] for row in found] == [True, False]
    assert found[1]["apart"] == pytest.approx(np.abs(found[1]["obtained"]).max())


def test_command_goes_on_when_something_cannot_be_compared(standin, files, monkeypatch):
    def refuse(name):
        raise CheckpointError("offline")

    monkeypatch.setattr(SigLIP, "from_pretrained", refuse)
    code, stdout, stderr = run("--published", "--files", files)
    assert (code, stdout) == (2, "")
    assert stderr == f"not compared: {NAME}: offline\n0 of 0 as published, not compared: {NAME}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "give the trace of a port, or --published"),
        (("--published", "siglip-base-patch16-223"), 1, "did you mean siglip-base-patch16-224"),
        (
            ("--published", "google/siglip2-base-patch16-224"),
            1,
            "no numbers were published of siglip2-base-patch16-224",
        ),
    ],
)
def test_command_refuses(arguments, code, message):
    found, stdout, stderr = run(*arguments)
    assert (found, stdout) == (code, "")
    assert message in " ".join(stderr.replace("│", "").split())
