"""A model is opened once, whatever a command asks of it first."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from npsiglip import Checkpoint, InputError, SigLIP, save_folder
from npsiglip.cli import app
from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig
from npsiglip.params import random_params
from tests.helpers.golden_data import TINY

IMAGE = ImageConfig(width=24, depth=1, num_heads=2, mlp_dim=32, image_size=28, patch_size=7)


@pytest.fixture
def opened(monkeypatch):
    """What was opened, in order."""
    found, own = [], Checkpoint.open.__func__

    def count(cls, folder, *args, **options):
        found.append(str(folder))
        return own(cls, folder, *args, **options)

    monkeypatch.setattr(Checkpoint, "open", classmethod(count))
    return found


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.filterwarnings("ignore:.*no preprocessor_config")
def test_a_classifier_is_opened_once(tmp_path, picture, opened):
    config = SigLIPConfig(IMAGE, None, ClassifierConfig(("cat", "dog"), False))
    save_folder(tmp_path / "model", config, random_params(config, seed=3))
    result = CliRunner().invoke(app, ["classify", str(picture), "--model", str(tmp_path / "model")])
    assert (result.exit_code, len(opened)) == (0, 1), result.output
    assert "cat" in result.stdout and "dog" in result.stdout


def test_a_model_with_labels_is_opened_once(picture, opened):
    result = CliRunner().invoke(app, ["classify", str(picture), "-l", "a", "--model", str(TINY)])
    assert (result.exit_code, len(opened)) == (0, 1), result.output


def test_a_model_without_labels_of_its_own_is_not_loaded(picture, opened):
    result = CliRunner().invoke(app, ["classify", str(picture), "--model", str(TINY)])
    assert (result.exit_code, len(opened)) == (2, 1)
    assert "give labels" in result.stderr


def test_the_model_of_an_open_checkpoint(picture):
    loaded, made = SigLIP.from_pretrained(TINY), SigLIP.from_checkpoint(Checkpoint.open(TINY), threads=1)
    assert (made.threads, made.dtype) == (1, "float32")
    for model in (loaded, made):
        assert np.isfinite(model.encode_image(picture)).all()
    np.testing.assert_array_equal(made.encode_image(picture), loaded.encode_image(picture))
    np.testing.assert_array_equal(made.encode_text(["a"]), loaded.encode_text(["a"]))
    with pytest.raises(InputError, match="sixteen_bit"):
        SigLIP.from_checkpoint(Checkpoint.open(TINY), sixteen_bit="cut")
