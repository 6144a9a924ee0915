"""big_vision's npz: read, written, damaged; written here by `big_vision_npz`, which does not know npsiglip."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.convert.formats import check_equal, convert
from npsiglip.errors import CheckpointError, InputError
from npsiglip.params import random_params
from npsiglip.save import save_folder, save_npz
from tests.helpers import big_vision_npz
from tests.helpers.model_folders import configs, message
from tests.helpers.npz_models import BOTH, FORMS, IMAGE, NAFLEX, TEXT, assert_same_files, of_folder, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


# Reading


@pytest.mark.parametrize(("stacked", "root"), FORMS)
def test_embeddings_are_the_folders(tmp_path, tiny_folder, tiny_config, golden, stacked, root):
    path = big_vision_npz.write(tmp_path / "tiny.npz", of_folder(tiny_folder, stacked, root))
    # 38 pixels by patches of 7, of which an npz knows 35
    assert Checkpoint.open(path).config == replace(tiny_config, image=replace(tiny_config.image, image_size=35))
    pixels, ids = golden["inputs.pixel_values"].astype(np.float32), golden["inputs.input_ids"]
    for dtype in ("float32", "bfloat16", "int8"):
        theirs = SigLIP.from_pretrained(tiny_folder, dtype)(pixels, ids)
        ours = SigLIP.from_pretrained(path, dtype)(pixels[:, :, :35, :35], ids)
        for name in ("image_embeds", "text_embeds", "logits_per_image"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=f"{dtype} {name}")


@pytest.mark.parametrize(("stacked", "root"), FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("config", [BOTH, NAFLEX], ids=["fixed", "naflex"])
def test_all_types(tmp_path, config, dtype, stacked, root):
    save_folder(tmp_path, config, random_params(config, seed=1), dtype)
    path = big_vision_npz.write(tmp_path / "model.npz", of_folder(tmp_path, stacked, root))
    npz, original = Checkpoint.open(path), Checkpoint.open(tmp_path)
    assert npz.config == config and npz.is_npz and npz.folder == tmp_path
    assert {npz.dtype_of(name) for name in npz} == {original.dtype_of("t_prime")}
    assert list(npz) == list(original)
    for name in original:
        np.testing.assert_array_equal(npz[name], original[name], err_msg=name)
        assert not npz[name].flags.writeable


@pytest.mark.parametrize("way", ["compressed", "fortran"])
@pytest.mark.parametrize("stacked", [False, True])
def test_files_that_cannot_be_mapped(folder, stacked, way):
    arrays = of_folder(folder, stacked)
    if way == "compressed":
        np.savez_compressed(folder / "x.npz", **arrays)
    else:
        np.savez(folder / "x.npz", **{name: np.asfortranarray(value) for name, value in arrays.items()})
    check_equal(Checkpoint.open(folder), Checkpoint.open(folder / "x.npz"))


def test_stacked_blocks_are_unpacked_once_as_long_as_one_is_in_use(folder, monkeypatch):
    np.savez_compressed(folder / "x.npz", **of_folder(folder, stacked=True))
    checkpoint, read, calls = Checkpoint.open(folder / "x.npz"), np.lib.format.read_array, []
    monkeypatch.setattr(np.lib.format, "read_array", lambda *a, **k: calls.append(a) or read(*a, **k))
    kept = [checkpoint[f"text.blocks.{i:02}.mlp.fc1.w"] for i in range(3)]
    assert len(kept) == 3 and len(calls) == 1
    del kept
    _ = checkpoint["text.blocks.00.mlp.fc1.w"]
    assert len(calls) == 2


def test_bfloat16_has_no_name(tmp_path):
    save_npz(tmp_path / "x.npz", BOTH, random_params(BOTH, seed=1), "bfloat16")
    with np.load(tmp_path / "x.npz") as file:
        assert all(file[name].dtype.str == "|V2" for name in file.files)
    assert (tmp_path / "x.npz").read_bytes().count(b"'descr': '|V2'") == len(file.files)


def test_positions_in_two_tensors_are_added(folder):
    arrays = of_folder(folder)
    extra = np.random.default_rng(0).standard_normal((1, 5, 12)).astype(np.float32)
    arrays["params/txt/Encoder_0/pos_embedding"] = extra
    npz = Checkpoint.open(big_vision_npz.write(folder / "x.npz", arrays))
    np.testing.assert_array_equal(npz["text.pos_embed"], Checkpoint.open(folder)["text.pos_embed"] + extra[0])
    arrays["params/txt/Encoder_0/pos_embedding"] = extra[:, :4]
    assert "must be like params/txt/pos_embedding" in message(big_vision_npz.write(folder / "y.npz", arrays))


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [("float16", "float16", "float32"), ("float16", "float32", "float32"), ("float32", "float64", "float64")],
)
def test_added_positions_are_not_rounded_to_a_narrow_type(folder, first, second, kind):
    arrays = of_folder(folder)
    rng = np.random.default_rng(0)
    names = ("params/txt/pos_embedding", "params/txt/Encoder_0/pos_embedding")
    for name, dtype in zip(names, (first, second), strict=True):
        arrays[name] = rng.standard_normal((1, 5, 12)).astype(dtype)
    found = Checkpoint.open(big_vision_npz.write(folder / "x.npz", arrays))["text.pos_embed"]
    assert found.dtype == kind
    np.testing.assert_array_equal(found, (arrays[names[0]].astype(kind) + arrays[names[1]].astype(kind))[0])


def test_without_head_of_texts_it_is_the_identity(folder):
    arrays = {name: value for name, value in of_folder(folder).items() if "txt/head" not in name}
    path = big_vision_npz.write(folder / "x.npz", arrays)
    npz = Checkpoint.open(path)
    np.testing.assert_array_equal(npz["text.head.w"], np.eye(12))
    np.testing.assert_array_equal(npz["text.head.b"], np.zeros(12))
    convert(path, folder / "out")
    convert(folder / "out", folder / "back.npz")
    assert_same_files(path, folder / "back.npz")
    assert "text_model.head.weight" in load_file(folder / "out" / "model.safetensors")


@pytest.mark.parametrize("change", ["a weight", "a bias"])
def test_a_head_of_texts_that_is_nearly_the_identity_is_kept(tmp_path, change):
    params = random_params(BOTH, seed=1)
    params["text.head.w"], params["text.head.b"] = np.eye(12, dtype=np.float32), np.zeros(12, np.float32)
    save_npz(tmp_path / "left out.npz", BOTH, params)
    with np.load(tmp_path / "left out.npz") as file:
        assert not [name for name in file.files if "txt/head" in name]
    params["text.head.w" if change == "a weight" else "text.head.b"].flat[5] = 1e-3
    save_npz(tmp_path / "kept.npz", BOTH, params)
    npz = Checkpoint.open(tmp_path / "kept.npz")
    for name in ("text.head.w", "text.head.b"):
        np.testing.assert_array_equal(npz[name], params[name])


def test_what_stands_beside_the_parameters_is_not_read(folder):
    """Checkpoints of a training have its state, too."""
    arrays = of_folder(folder) | {"opt/0/count": np.array(3), "extra": np.zeros(2)}
    check_equal(Checkpoint.open(folder), Checkpoint.open(big_vision_npz.write(folder / "x.npz", arrays)))


@pytest.mark.parametrize("tower", ["image", "text"])
def test_one_tower(tmp_path, tower):
    config = replace(BOTH, **{"text" if tower == "image" else "image": None})
    params = random_params(config, seed=1)
    save_npz(tmp_path / "x.npz", config, params)
    npz = Checkpoint.open(tmp_path / "x.npz")
    assert npz.config == config
    assert {name: value.tolist() for name, value in npz.items()} == {k: v.tolist() for k, v in params.items()}


def test_image_tower_without_head(tmp_path):
    config = SigLIPConfig(replace(IMAGE, head=False), None)
    save_npz(tmp_path / "x.npz", config, random_params(config, seed=1))
    assert Checkpoint.open(tmp_path / "x.npz").config == config


def test_tokenizer_and_image_processor_stand_beside(tmp_path, tiny_folder):
    path = big_vision_npz.write(tmp_path / "tiny.npz", of_folder(tiny_folder))
    alone = SigLIP.from_pretrained(path)
    assert alone.tokenizer is None and (alone.processor.height, alone.processor.resample) == (35, 3)
    with pytest.raises(InputError, match=rf"no tokenizer, .* put spiece\.model .* into {tmp_path}, or pass token ids"):
        alone.encode_text("a cat")
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, tmp_path)
    texts, original = ["a cat", "two dogs"], SigLIP.from_pretrained(tiny_folder)
    np.testing.assert_array_equal(SigLIP.from_pretrained(path).encode_text(texts), original.encode_text(texts))
    settings = {"resample": 0, "size": {"height": 35, "width": 35}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert SigLIP.from_pretrained(path).processor.resample == 0


def test_siglip2_resizes_bilinear_and_wants_its_own_tokenizer(tmp_path, tiny_folder):
    config = replace(BOTH, text=replace(TEXT, vocab_size=256_000))
    save_npz(tmp_path / "x.npz", config, random_params(config, seed=1), "bfloat16")
    assert SigLIP.from_pretrained(tmp_path / "x.npz").processor.resample == 2
    convert(tmp_path / "x.npz", tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "preprocessor_config.json").read_text())["resample"] == 2
    shutil.copy(tiny_folder / "spiece.model", tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist"):
        SigLIP.from_pretrained(tmp_path / "x.npz").encode_text("a cat")


# Written


@settings(max_examples=40)
@given(configs(), st.booleans(), st.sampled_from(["params/", ""]), st.integers(0, 2**32))
def test_any_model_round_trips(tmp_path_factory, config, stacked, root, seed):
    """But for an image size that the patch does not divide, which an npz does not tell."""
    if config.image:
        size = config.image.grid_size * config.image.patch_size
        config = replace(config, image=replace(config.image, image_size=size))
    folder, params = tmp_path_factory.mktemp("any"), random_params(config, seed=seed)
    save_npz(folder / "x.npz", config, params, stacked=stacked, root=root)
    npz = Checkpoint.open(folder / "x.npz")
    assert npz.config == config
    for name, value in params.items():
        np.testing.assert_array_equal(npz[name], value, err_msg=name)
        assert npz[name].dtype == np.float32


# Damaged files


def test_pickles_are_not_read(folder):
    arrays = of_folder(folder) | {"params/t": np.array([print], object)}
    np.savez(folder / "x.npz", **arrays, allow_pickle=True)
    assert "params/t (t_prime): object" in message(folder / "x.npz")


def test_not_finite(folder):
    arrays = of_folder(folder)
    arrays["params/img/embedding/bias"] = np.full(12, np.inf, np.float32)
    checkpoint = Checkpoint.open(big_vision_npz.write(folder / "x.npz", arrays))
    with pytest.raises(CheckpointError, match=r"image\.patch_embed\.b .* 12 of 12 values not finite"):
        checkpoint["image.patch_embed.b"]


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_cut_short(folder, keep):
    path = big_vision_npz.write(folder / "x.npz", of_folder(folder))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    assert "is cut short, damaged or no npz file" in message(path)


def test_damaged(folder, tiny_folder):
    """In a compressed file the checksum tells; in a header, its numbers do."""
    np.savez_compressed(folder / "x.npz", **of_folder(tiny_folder))
    content = bytearray((folder / "x.npz").read_bytes())
    with zipfile.ZipFile(folder / "x.npz") as archive:
        info = archive.getinfo("params/txt/Embed_0/embedding.npy")
    content[info.header_offset + info.compress_size] ^= 255
    (folder / "x.npz").write_bytes(content)
    checkpoint = Checkpoint.open(folder / "x.npz")
    with pytest.raises(CheckpointError, match=r"has a damaged params/txt/Embed_0/embedding.*download it again"):
        checkpoint["text.token_embed"]
    path = big_vision_npz.write(folder / "y.npz", of_folder(folder))
    path.write_bytes(path.read_bytes().replace(b"'shape': (1, 5, 12)", b"'shape': (1, 5, 13)"))
    assert "has another size than its shape [1, 5, 13] says" in message(path)


def test_a_name_twice(folder):
    path = big_vision_npz.write(folder / "x.npz", of_folder(folder))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("params/t.npy", archive.read("params/t.npy"))
    assert "a name is in it twice" in message(path)


def test_missing_file_and_folder_of_that_name(tmp_path):
    assert "does not exist; expected a model folder" in message(tmp_path / "x.npz")
    (tmp_path / "x.npz").mkdir()
    assert "config.json does not exist" in message(tmp_path / "x.npz")
