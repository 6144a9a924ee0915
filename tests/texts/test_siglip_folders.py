"""siglip.py: tokenizers of folders, their settings, and files that cannot be used."""

import json
import shutil

import pytest

from npsiglip.errors import CheckpointError
from npsiglip.texts.siglip import Tokenizer
from tests.helpers.golden_data import TINY
from tests.helpers.siglip_tokenizer import TOK, TOKENIZERS, TOKENS


@pytest.fixture
def folder(tmp_path):
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copy(TINY / name, tmp_path)
    return tmp_path


def configure(folder, **settings):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_from_folder(folder):
    texts = [case["text"] for case in TOKENS["cases"]]
    assert Tokenizer.from_folder(folder, 16)(texts).tolist() == TOKENIZERS[16, True](texts).tolist()
    assert Tokenizer.from_folder(str(folder))(texts).tolist() == TOK(texts).tolist()
    assert Tokenizer.from_folder(folder, canonicalize=False)(texts).tolist() == TOKENIZERS[64, False](texts).tolist()
    configure(folder, do_lower_case=False)
    assert Tokenizer.from_folder(folder)(texts).tolist() == TOKENIZERS[64, False](texts).tolist()
    assert Tokenizer.from_folder(folder, canonicalize=True)(texts).tolist() == TOK(texts).tolist()
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(folder)(texts).tolist() == TOK(texts).tolist()


def test_from_folder_padding_token(folder):
    configure(folder, pad_token={"content": "<pad>", "lstrip": True, "rstrip": True})
    assert Tokenizer.from_folder(folder, 3)("").tolist() == [[1, 0, 0]]


def test_from_folder_as_older_versions_wrote_it(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    special = {"eos_token": {"content": "</s>"}, "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "added_tokens.json").write_text('{"<pad>": 0}')
    assert Tokenizer.from_folder(folder, 3)("").tolist() == [[1, 0, 0]]
    (folder / "added_tokens.json").write_text('{"<image>": 1000}')
    with pytest.raises(CheckpointError, match="'<image>'"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"legacy": False}, "legacy False, expected True"),
        ({"padding_side": "left"}, "padding_side 'left', expected 'right'"),
        ({"truncation_side": "left"}, "truncation_side 'left'"),
        ({"split_special_tokens": True}, "split_special_tokens True"),
        ({"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs"),
        ({"tokenizer_class": "T5Tokenizer"}, "tokenizer_class 'T5Tokenizer', expected 'SiglipTokenizer'"),
        ({"tokenizer_class": "GemmaTokenizerFast"}, "tokenizer_class 'GemmaTokenizerFast', expected"),
        ({"additional_special_tokens": ["<image>"]}, r"added tokens \['<image>'\]"),
        ({"extra_special_tokens": {"image_token": "<image>"}}, r"added tokens \['<image>'\]"),
        ({"extra_special_tokens": [{"content": "<image>"}]}, r"added tokens \['<image>'\]"),
        ({"mask_token": "<mask>"}, r"added tokens \['<mask>'\]"),
        ({"added_tokens_decoder": {"7": {"content": "<x>"}}}, r"added tokens \['<x>'\]"),
        ({"added_tokens_decoder": {"0": {}}}, "a token {}, expected"),
        ({"added_tokens_decoder": "<x>"}, "added_tokens_decoder '<x>', expected an object"),
        ({"extra_special_tokens": 3}, "extra_special_tokens 3, expected"),
        ({"legacy": None}, "legacy None, expected True"),
        ({"eos_token": 1}, "a token 1, expected"),
        ({"eos_token": "<eos>"}, "no piece '<eos>'"),
        ({"pad_token": ""}, "no piece ''"),
    ],
)
def test_settings_that_cannot_be_used(folder, settings, message):
    configure(folder, **settings)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": None},
        {"sp_model_kwargs": None},
        {"additional_special_tokens": None},
        {"extra_special_tokens": {}},
        {"bos_token": None},
        {"add_bos_token": False},
        {"mask_token": "</s>"},
    ],
)
def test_settings_that_say_nothing(folder, settings):
    configure(folder, **settings)
    assert Tokenizer.from_folder(folder)("a cat").tolist() == TOK("a cat").tolist()


def test_folder_without_a_model(folder):
    (folder / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"spiece\.model does not exist, expected .* download"):
        Tokenizer.from_folder(folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        Tokenizer.from_folder(folder / "no")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"0 bytes\) is not a SentencePiece model"),
        (b"junk" * 99, "is not a SentencePiece model or is cut short"),
        ((TINY / "spiece.model").read_bytes()[:3000], "is cut short: download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer, .*git lfs pull"),
    ],
)
def test_a_model_that_cannot_be_used(folder, content, message):
    (folder / "spiece.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(folder)


def test_a_model_that_is_a_folder(tmp_path):
    (tmp_path / "spiece.model").mkdir()
    with pytest.raises(CheckpointError, match="cannot read"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_config_that_cannot_be_read(folder, content):
    (folder / "tokenizer_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json .*download it again"):
        Tokenizer.from_folder(folder)
