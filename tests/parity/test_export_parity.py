"""The folder of a trained model in transformers: it loads without a word, and gives the same numbers.

Random weights in each type that a run can be stored in, and the built-in model.
"""

import warnings

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, SiglipModel

from npsiglip import SigLIP, SigLIPConfig
from npsiglip.hub.resolve import model_folder
from npsiglip.params import random_params
from npsiglip.train.export import export_model
from npsiglip.train.tokenizer import train_tokenizer
from tests.helpers.train_standin import StandIn, config

TEXTS = ["a red square", "The BIG blue square, on top!", "zebra", ""]


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16", "builtin"])
def folder(request, tmp_path_factory):
    if request.param == "builtin":
        return model_folder("builtin")
    place = tmp_path_factory.mktemp("export")
    train_tokenizer(StandIn().captions(200), 96, place / "spiece.model")
    shapes = config().siglip
    params = random_params(shapes, 3)
    export_model(place / "model", shapes, params, place / "spiece.model", request.param)
    return place / "model"


@pytest.fixture(scope="module")
def theirs(folder):
    return SiglipModel.from_pretrained(folder)


def test_loads_without_a_warning(folder, caplog, capfd):
    transformers.SiglipTextConfig()  # warns once of its own defaults, whatever is loaded
    caplog.clear()
    logger = transformers.utils.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, info = SiglipModel.from_pretrained(folder, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(folder).image_processor
    logger.removeHandler(caplog.handler)
    assert not any(info.values()), info
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    assert "weights" not in capfd.readouterr().err.lower().replace("loading weights", "")
    assert model.dtype == torch.float32
    size = SigLIPConfig.from_folder(folder).image.image_size
    assert (processor.resample, processor.size["height"], tuple(processor.image_mean)) == (3, size, (0.5,) * 3)
    text = model.config.text_config
    assert (text.bos_token_id, text.eos_token_id, text.pad_token_id) == (None, 1, 1)


def test_ids_are_equal(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == "SiglipTokenizer"
    assert tokenizer.model_max_length == SigLIPConfig.from_folder(folder).text.seq_len
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    np.testing.assert_array_equal(
        ids[1], tokenizer(TEXTS[1].lower(), padding="max_length", truncation=True)["input_ids"]
    )
    np.testing.assert_array_equal(SigLIP.from_pretrained(folder).tokenizer(TEXTS), ids)


def test_logits_are_equal(folder, theirs):
    pictures, captions = StandIn().batch(1)
    pictures = [Image.fromarray(picture).resize((40, 30)) for picture in pictures]
    inputs = AutoProcessor.from_pretrained(folder)(
        text=captions, images=pictures, padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = theirs(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits_per_image.numpy()
    model = SigLIP.from_pretrained(folder)
    np.testing.assert_allclose(model(pictures, model.tokenizer(captions)).logits_per_image, logits, atol=1e-4, rtol=0)
