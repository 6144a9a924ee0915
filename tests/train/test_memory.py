"""How much memory a run needs, and that too large ones are refused."""

import pytest

from npsiglip.errors import InputError
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
    check_memory(settings, memory_needed(settings))
    with pytest.raises(InputError, match="a batch of 10000000 needs about"):
        run(tmp_path / "run", config(train={"batch": 10_000_000}))
    assert not list((tmp_path / "run").iterdir())
    assert available_memory() > 50_000_000
