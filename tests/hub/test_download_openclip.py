"""Downloads of folders of open_clip and timm: which files of them, and what is refused before weights come."""

import json

import pytest

from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import CheckpointError
from npsiglip.formats.told import OPEN_CLIP
from npsiglip.hub.cache import missing_files
from npsiglip.hub.resolve import model_folder
from npsiglip.model import SigLIP
from tests.helpers import hub_server
from tests.helpers.command import invoke
from tests.helpers.openclip_golden import CONFIG, WEIGHTS, change_json, copy_folder


def published(hub, tmp_path, name, **others):
    """A repository with the files of open_clip or timm, and some that are not read."""
    folder = copy_folder(tmp_path, name)
    for file, data in {"README.md": b"not read", "open_clip_pytorch_model.bin": b"not read", **others}.items():
        (folder / file).write_bytes(data)
    hub.repositories[f"timm/{name}"] = hub_server.repository(folder)
    return folder


def test_download_of_open_clip(hub, tmp_path):
    source = published(hub, tmp_path, "siglip")
    folder = model_folder("timm/siglip")
    assert hub.fetched == sorted([CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json"])
    assert missing_files(folder) == []
    hub.forget()
    assert SigLIP.from_pretrained("timm/siglip").config == Checkpoint.open(source).config
    assert hub.requests == []
    (folder / "tokenizer.json").unlink()
    assert missing_files(folder) == ["tokenizer.json or spiece.model or tokenizer.model"]
    result = invoke("models")
    assert "timm/siglip" in result.output, result.output


def test_download_of_timm(hub, tmp_path):
    published(hub, tmp_path, "gap")
    folder = model_folder("timm/gap")
    assert hub.fetched == ["config.json", "model.safetensors"]
    assert Checkpoint.open(folder).config.image.mean


def test_other_models_are_refused_before_their_weights_come(hub, tmp_path):
    source = copy_folder(tmp_path, "siglip")
    change_json(source / CONFIG, "model_cfg", "vision_cfg", timm_model_name=None, layers=12)
    hub.repositories["timm/clip"] = hub_server.repository(source)
    with pytest.raises(CheckpointError, match="this is another model, such as CLIP"):
        model_folder("timm/clip")
    assert hub.fetched == [CONFIG]
    change_json(copy_folder(tmp_path, "gap") / "config.json", architecture="resnet50")
    hub.repositories["timm/resnet"] = hub_server.repository(tmp_path / "gap")
    with pytest.raises(CheckpointError, match="no SigLIP's image tower"):
        model_folder("timm/resnet")
    assert hub.fetched == ["config.json", CONFIG]


def test_a_repository_of_two_formats(hub, tmp_path):
    config = json.dumps({"model_type": "somebody-siglip", "architectures": ["X"]}).encode()
    published(hub, tmp_path, "siglip", **{"config.json": config, "model.safetensors": b"not read"})
    folder = model_folder("timm/siglip")
    assert hub.fetched == sorted(["config.json", CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json"])
    assert Checkpoint.open(folder).form == OPEN_CLIP
