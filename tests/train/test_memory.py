"""How much memory a run needs, and that too large ones are refused."""

from math import prod

import pytest

from npsiglip.errors import InputError
from npsiglip.params import param_shapes
from npsiglip.train.initial import locked_params
from npsiglip.train.memory import available_memory, check_memory, memory_needed
from tests.helpers.train_runs import run
from tests.helpers.train_standin import config


def test_a_batch_that_does_not_fit_is_refused_before_anything_begins(tmp_path):
    settings = config(train={"batch": 64})
    with pytest.raises(InputError, match=r"a batch of 64 needs about 0.\d GB of memory, and 0.0 GB are available"):
        check_memory(settings, 10_000_000)
    need = memory_needed(config(train={"batch": 16}))
    with pytest.raises(InputError, match="a batch of 16 would fit"):
        check_memory(settings, need)
    need = memory_needed(settings)
    assert (
        check_memory(settings, need + 1) == f"memory: about {need / 1e9:.1f} GB needed, {need / 1e9:.1f} GB available"
    )
    with pytest.raises(InputError, match=r"no batch at all: take a smaller one, or train less of it \(train.lock"):
        check_memory(settings, 1000)
    with pytest.raises(InputError, match="a batch of 10000000 needs about"):
        run(tmp_path / "run", config(train={"batch": 10_000_000}))
    assert not list((tmp_path / "run").iterdir())
    assert available_memory() > 50_000_000


def test_what_is_locked_needs_less():
    """Of moments and of a checkpoint's copies, at least 16 bytes a parameter; of gradients and layers more."""
    whole, parts = (
        config(train={"init": "x"}),
        ({"lock": "image", "new": ""}, {"lock": "text", "new": ""}, {"blocks": 0}),
    )
    for part in parts:
        less = config(train={"init": "x"} | part)
        count = sum(prod(shape) for name, shape in param_shapes(whole.siglip).items() if name in locked_params(less))
        assert count > 1000
        assert memory_needed(less) <= memory_needed(whole) - 16 * count
