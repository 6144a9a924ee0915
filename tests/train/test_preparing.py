"""What a run needs before its first step, and what cannot be."""

import pytest

from npsiglip.errors import InputError
from npsiglip.kernels.jit import max_threads
from tests.helpers.train_runs import run
from tests.helpers.train_standin import config


def test_too_many_threads(tmp_path):
    with pytest.raises(InputError, match=f"run.threads must be at most {max_threads()} here"):
        run(tmp_path, config(run={"threads": max_threads() + 1}))


def test_a_vocabulary_larger_than_the_model(tmp_path, tiny_folder):
    with pytest.raises(InputError, match=r"the tokenizer has \d+ pieces, the model 96 rows"):
        run(tmp_path / "run", config(data={"tokenizer": str(tiny_folder / "spiece.model")}))
    with pytest.raises(InputError, match="tokenizer nowhere cannot be copied"):
        run(tmp_path / "run", config(data={"tokenizer": "nowhere"}))
