"""Gradients: good ones conform, planted mistakes are found walking back from the loss, and named.

Covers verify/backward.py, verify/gradient_names.py and verify/mistakes_gradients.py as well.
"""

import functools

import ml_dtypes
import numpy as np
import pytest

from npsiglip import InputError, SigLIP
from npsiglip.formats.big_vision_names import npz_layouts
from npsiglip.formats.hf_names import layouts
from npsiglip.formats.openclip_names import openclip_layouts
from npsiglip.reference import siglip_loss_and_gradients
from npsiglip.train.step import Gradients
from npsiglip.verify import Golden, compare
from npsiglip.verify.arithmetic import EXACT, HONEST
from npsiglip.verify.backward import LOSS_OP, gradients, taps_of
from npsiglip.verify.html import page
from npsiglip.verify.mistakes_gradients import FACTORS, GRADIENT_SUMMARIES, SLIPS, Slip
from npsiglip.verify.operations import IDS, PIXELS, Context
from tests.helpers.golden_data import TINY
from tests.helpers.train_steps import data, filled, flat_params

PAIRS = 3
FLOATS = ("float32", "bfloat16", "float16")


@functools.cache
def truth():
    model = SigLIP.from_pretrained(TINY)
    pixels, ids = data(model.config, PAIRS, model.config.text.seq_len)
    return model, Golden(model, pixels, ids, gradients=True)


def port(dtype="float32", slip=None, variant=0):
    """Loss and gradients as an honest port has them, with a mistake; under our names."""
    _, golden = truth()
    context = Context(golden.config, golden.params, HONEST[dtype][variant] if dtype != "float64" else EXACT)
    env = taps_of(context, golden.ops, golden.inputs)
    found = gradients(context, golden.ops, env, slip.change if slip else lambda op: None)
    return {"loss": np.float32(found.loss)} | {f"grad.{name}": x for name, x in found.grads.items()}


def judged(candidate, dtype="float32", **options):
    report = compare(candidate, truth()[1], dtype=dtype, **options)
    return report, [match.name for match in report.diagnosis]


def differs(slip):
    exact, other = port("float64"), port("float64", slip)
    return any(np.abs(exact[name] - other[name]).max() > 1e-9 for name in exact if not name.endswith("attn.k.b"))


USABLE = [slip for slip in SLIPS if differs(slip)]


def test_they_are_those_of_the_reference():
    model, golden = truth()
    params = {name: np.asarray(x, np.float64) for name, x in model._params.items()}
    loss, grads = siglip_loss_and_gradients(params, golden.config, golden[PIXELS], golden[IDS])
    assert golden["loss"] == pytest.approx(loss, rel=1e-14)
    assert [name for name in golden if name.startswith("grad.")] == [f"grad.{name}" for name in params]
    for name, x in grads.items():
        unit = np.linalg.norm(grads[name.replace("attn.k.b", "attn.q.b")])
        assert np.linalg.norm(golden[f"grad.{name}"] - x) <= 1e-12 * unit, name


@pytest.mark.parametrize("dtype, variant", [(dtype, i) for dtype in FLOATS for i in range(len(HONEST[dtype]))])
def test_honest_gradients_conform(dtype, variant):
    report, _ = judged(port(dtype, variant=variant), dtype)
    assert report.verdict == "conforms", report.sentence()
    assert report.coverage.compared == len(truth()[1].params) + 1
    assert report.coverage.missing == ()


def test_our_own_training_conforms():
    model, golden = truth()
    params, grads = flat_params(model.config), filled(flat_params(model.config))
    for name, x in golden.params.items():
        params.views[name][...] = x
    loss = Gradients(model.config, PAIRS, model.config.text.seq_len).step(params, golden[PIXELS], golden[IDS], grads)
    report, _ = judged({"loss": loss} | {f"grad.{name}": grads.views[name] for name in params.shapes})
    assert report.verdict == "conforms", report.sentence()


def test_most_mistakes_act_here():
    assert {slip.name for slip in SLIPS} - {slip.name for slip in USABLE} == {"gelu_gradient_tanh"}
    assert len(GRADIENT_SUMMARIES) == len(SLIPS) + len(FACTORS)


@pytest.mark.parametrize("slip", USABLE, ids=lambda slip: slip.name)
def test_it_is_found_and_named(slip):
    report, names = judged(port(slip=slip))
    acts = next(op.tap for op in (LOSS_OP, *reversed(truth()[1].ops)) if slip.change(op))
    assert report.verdict == "diverges"
    assert acts in report.first.stretch
    assert names[:1] == [slip.name]


@pytest.mark.parametrize("factor, name", [(PAIRS, "sum"), (1 / PAIRS, "mean"), (-1, "negated"), (1024, "scaled")])
def test_one_factor_on_all_is_named(factor, name):
    found = {key: x if key == "loss" else x * np.float32(factor) for key, x in port().items()}
    report, names = judged(found)
    assert names[0].endswith(name)
    assert report.first.tap == "grad.t_prime"
    assert "or the forward pass. Show taps of the forward pass, too" in report.sentence()


def _halved(c, op, env, d):
    return dict.fromkeys(op.inputs, 0.5 * d), {}


@pytest.mark.parametrize(
    "tap, others",
    [
        ("image.blocks.01.+mlp", ("image.blocks.02.ln1", "image.blocks.02.+attn")),
        ("text.blocks.00.+attn", ("text.blocks.00.ln2", "text.blocks.00.+mlp")),
    ],
)
def test_what_is_not_known_is_located_and_not_named(tap, others):
    report, names = judged(port(slip=Slip("halved", "", {tap: _halved})))
    assert names == []
    assert set(report.first.stretch) == {tap, *others}  # what lies between this and the gradients that are right
    assert f"Suspect is the backward pass of {' or '.join(report.first.stretch)}; what lies behind" in report.sentence()
    after = f"grad.{tap.split('.')[0]}.blocks.{int(tap.split('.')[2]) + 1:02d}."
    behind = [t for t in report.taps if t.tap.startswith(after)]
    assert len(behind) == 16
    assert not any(t.diverges for t in behind)


def stored(places, found):
    """Gradients as a format stores parameters."""
    result = {}
    for name, place in places.items():
        array = result.setdefault(place.key, np.zeros(place.shape, np.float32))
        view = place.view(array)
        view[...] = found[f"grad.{name}"].reshape(view.shape)
    return result


@pytest.mark.parametrize("whose", ["hf", "timm", "big_vision", "big_vision, stacked"])
def test_names_and_layouts_of_others(whose):
    config, found = truth()[0].config, port(slip=next(s for s in SLIPS if s.name == "gelu_gradient_relu"))
    places = {
        "hf": lambda: layouts(config),
        "timm": lambda: openclip_layouts(config, "visual.trunk."),
        "big_vision": lambda: npz_layouts(config, ()),
        "big_vision, stacked": lambda: npz_layouts(config, ("image", "text")),
    }[whose]()
    for names in ("auto", whose.split(",")[0]):
        report, diagnosis = judged(stored(places, found), names=names)
        assert report.coverage.missing == ()
        assert report.coverage.compared == len(truth()[1].params)
        assert diagnosis == ["gelu_gradient_relu"]
    report, _ = judged(
        {f"params/{key}" if "/" in key else f"model.{key}": x for key, x in stored(places, port()).items()}
    )
    assert report.verdict == "conforms", report.sentence()


def test_a_transposed_weight_and_one_left_out():
    found = port()
    found["grad.image.blocks.00.attn.q.w"] = found["grad.image.blocks.00.attn.q.w"].T
    del found["grad.bias"]
    report, _ = judged(found)
    assert report.verdict == "conforms"
    assert report.coverage.missing == ("grad.bias",)
    assert any("such as the gradient of image.blocks.00.attn.q.w" in what for what in report.assumed)


def test_what_cannot_be_told():
    model, golden = truth()
    weights = {key: np.asarray(x) for key, x in model._params.items()}
    report = compare(weights, golden)
    assert (report.exit_code, report.coverage.compared) == (2, 0)
    assert any("are weights and no gradients" in what for what in report.assumed)
    fewer = Golden(model, golden[PIXELS][:2], golden[IDS])
    report = compare(port(), fewer)
    assert "as many labels as images, label i for image i; got 2 images, 3 labels" in report.sentence()
    with pytest.raises(InputError, match="got 2 images, 3 labels"):
        Golden(model, golden[PIXELS][:2], golden[IDS], gradients=True)
    report, _ = judged(port() | {"grad.text.head.b": np.zeros(5)})
    assert report.exit_code == 2
    assert "the gradient of text.head.b" in report.sentence()


def test_a_wrong_forward_pass_comes_first():
    _, golden = truth()
    taps = dict(golden.computed("float32"))
    taps["image.blocks.00.mlp.gelu"] = np.maximum(taps["image.blocks.00.mlp.fc1"], 0)
    taps["grad.bias"] = taps["grad.bias"] * 2
    report, names = judged(taps)
    assert report.first.tap == "image.blocks.00.mlp.gelu"
    assert names == ["relu"]
    assert any("gradients of a forward pass that is wrong" in what for what in report.assumed)
    assert next(tap for tap in report.taps if tap.tap == "grad.bias").diverges


def test_reports_of_gradients_can_be_shown():
    found = port(slip=next(slip for slip in SLIPS if slip.name == "residual_detached"))
    report, _ = judged(found)
    shown = page(report, found, truth()[1], "auto")
    assert f"Diverges first, walking back from the loss, at {report.first.tap}" in shown
    assert "grad.image.blocks.00.ln1.scale" in shown
    assert all(len(line) <= 80 for line in report.table(True).splitlines())
    assert 'name="grad.t_prime"' in report.junit()


def test_what_is_not_finite():
    report, names = judged(port() | {"grad.text.head.w": np.full_like(port()["grad.text.head.w"], np.nan)})
    assert (report.first.tap, names) == ("grad.text.head.w", [])
    assert "values are not finite" in report.sentence()


def test_weights_beside_gradients_are_not_taken_for_them():
    """Nor for what the port computes in: those of many models are whole numbers of bfloat16."""
    model, golden = truth()
    weights = {name: np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float32) for name, x in model._params.items()}
    taps = {name: x for name, x in golden.computed("float32") if not name.startswith("grad.") and name != "loss"}
    right = {name: np.asarray(x, np.float32) for name, x in port().items()}
    report = compare(weights | taps | right, golden)
    assert (report.verdict, report.dtype, report.coverage.unknown) == ("conforms", "float32", ())
    seven = {name: x if name == "loss" else 7 * x for name, x in right.items()}
    for beside in (taps, {}):
        report = compare(weights | beside | seven, golden)
        assert (report.verdict, report.dtype) == ("diverges", "float32"), report.sentence()
        assert [match.name for match in report.diagnosis] == ["gradients_scaled"]
    off = taps | {"image.blocks.00.attn.v": taps["image.blocks.00.attn.v"] * np.float32(1.001)}
    assert compare(weights | off, golden).first.tap == "image.blocks.00.attn.v"


def test_taps_that_are_called_like_parameters_are_taps():
    """llama.cpp's `pos_embed` is what timm calls the table of positions."""
    _, golden = truth()
    taps = dict(golden.computed("float32"))
    shown = {
        "inp": taps["image.patch_embed"],
        "pos_embed": taps["image.embed"],
        "layer_out-0": taps["image.blocks.00.+mlp"],
    }
    for names in ("auto", "gguf"):
        report = compare(shown, golden, names=names)
        assert (report.verdict, report.coverage.compared) == ("conforms", 3), report.sentence()


def test_the_loss_alone():
    _, golden = truth()
    loss = np.float32(golden["loss"])
    report = compare({"loss": loss}, golden)
    assert (report.verdict, report.coverage.compared) == ("conforms", 1)
    assert compare({"loss": 3 * loss}, golden).verdict == "diverges"
    assert compare({"loss": 3 * loss, "zimg": golden["zimg"]}, golden).first.tap == "loss"
    report = compare(port() | {"loss": np.zeros(3)}, golden)
    assert report.exit_code == 2
    assert "loss is [3], and the loss is one number" in report.reason


def test_gradients_that_are_exactly_zero():
    """Of pixels that are zero: nothing comes back to the weights of patches."""
    model, golden = truth()
    blank = Golden(model, np.zeros_like(golden[PIXELS]), golden[IDS], gradients=True)
    assert not np.any(blank["grad.image.patch_embed.w"])
    found = {name: 2 * blank[name] for name in blank if name.startswith("grad.")}
    report = compare(found, blank)
    assert report.verdict == "diverges"
    assert report.diagnosis[0].name == "gradients_scaled"


def test_8_bits_have_no_gradients_of_their_own():
    report, _ = judged(port(), "int8")
    assert report.verdict == "conforms"
    assert any("gradients are compared as float32" in what for what in report.assumed)
