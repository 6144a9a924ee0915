"""The arithmetic that is counted, against released models and against shapes of a trace."""

import pytest

from npsiglip import SigLIP
from npsiglip.bench.cases import Case, random_inputs
from npsiglip.bench.flop import blocks_flop, case_flop, image_flop, text_flop
from npsiglip.params import param_shapes
from npsiglip.variants import variant


def test_flop_of_released_models():
    """The numbers that are commonly given for these towers, in GFLOP, as multiply-adds counted twice."""
    base, so400m = variant("siglip-base-patch16-224"), variant("siglip-so400m-patch14-384")
    assert image_flop(base.image) / 1e9 == pytest.approx(35, rel=0.015)
    assert image_flop(so400m.image) / 1e9 == pytest.approx(666, rel=0.01)
    assert case_flop(Case("image", 8), base) == 8 * image_flop(base.image)
    assert case_flop(Case("text", 3), base) == 3 * text_flop(base.text)


@pytest.mark.parametrize(("tower", "flop"), [("image", image_flop), ("text", text_flop)])
def test_flop_is_that_of_the_products_of_a_trace(tower, flop, tiny_config, tiny_params):
    """Counted from shapes of what a forward pass leaves behind, instead of from the config."""
    model = SigLIP(tiny_config, tiny_params)
    inputs = random_inputs(Case(tower, 1), tiny_config)
    trace = model.trace(**{f"{tower}s": inputs})
    total = 0
    for name, shape in param_shapes(tiny_config).items():
        layer = name.removesuffix(".w")
        if name.startswith(tower) and name.endswith(".w") and layer != "image.map_head.attn.q":
            total += 2 * (trace[layer].size // shape[1]) * shape[0] * shape[1]
    for name, tap in trace.items():
        if name.endswith(".probs"):
            width = trace[name.replace(".probs", ".mix")].shape[-1]
            total += 2 * 2 * tap.size * width // tap.shape[1]
    assert flop(getattr(tiny_config, tower)) == total
    assert blocks_flop(getattr(tiny_config, tower)) < total
