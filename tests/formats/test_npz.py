"""big_vision's npz: read, converted both ways, refused; written by `big_vision_npz`, which does not know npsiglip."""

import json
import shutil
import zipfile
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from typer.testing import CliRunner

from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.cli import app
from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.convert import formats as converter
from npsiglip.convert.formats import check_equal, convert
from npsiglip.convert.quantize import quantize_folder
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.big_vision_config import npz_config
from npsiglip.formats.big_vision_names import Form, npz_layouts
from npsiglip.params import random_params
from npsiglip.save import save_folder, save_npz
from npsiglip.variants import VARIANTS
from tests.helpers import big_vision_npz
from tests.helpers.golden_data import GOLDEN
from tests.test_checkpoint import configs

IMAGE = ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=16, patch_size=4)
TEXT = TextConfig(width=12, depth=3, num_heads=2, mlp_dim=14, seq_len=5, vocab_size=11, projection_dim=12)
BOTH = SigLIPConfig(IMAGE, TEXT)
NAFLEX = SigLIPConfig(replace(IMAGE, naflex=True), TEXT)
FORMS = [(stacked, root) for stacked in (False, True) for root in ("params/", "")]


def of_folder(folder, stacked=False, root="params/"):
    """A folder's weights as the arrays of an npz."""
    config = json.loads((folder / "config.json").read_text())
    return big_vision_npz.arrays_of(load_file(folder / "model.safetensors"), config, stacked, root)


@pytest.fixture
def folder(tmp_path):
    save_folder(tmp_path / "model", BOTH, random_params(BOTH, seed=1))
    return tmp_path / "model"


def message(path):
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(path)
    return str(error.value)


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


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stacked", [False, True])
def test_shapes_tell_the_configuration(name, stacked):
    """Of every released model, so also that So400m/14-384 has images of 384 pixels and not of 27 x 14."""
    config = VARIANTS[name].config
    towers = frozenset({"image", "text"}) if stacked else frozenset()
    shapes = {place.key: place.shape for place in npz_layouts(config, towers).values()}
    assert npz_config("x.npz", shapes, Form("", towers)) == config


def test_a_released_image_tower_with_other_texts_is_not_the_released_model():
    """Nobody knows its image size, which then is a multiple of the patch."""
    known = VARIANTS["siglip-so400m-patch14-384"].config
    config = replace(known, text=replace(known.text, vocab_size=999))
    shapes = {place.key: place.shape for place in npz_layouts(config, frozenset()).values()}
    assert npz_config("x.npz", shapes, Form("", frozenset())) == replace(
        config, image=replace(known.image, image_size=27 * 14)
    )


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


# Converting


def assert_same_files(first, second):
    """The same names, types, shapes and bits."""
    with np.load(first) as a, np.load(second) as b:
        assert sorted(a.files) == sorted(b.files)
        for name in a.files:
            assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
            assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize(("stacked", "root"), FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("config", [BOTH, NAFLEX], ids=["fixed", "naflex"])
def test_npz_to_folder_to_npz(tmp_path, config, dtype, stacked, root):
    save_folder(tmp_path, config, random_params(config, seed=1), dtype)
    path = big_vision_npz.write(tmp_path / "model.npz", of_folder(tmp_path, stacked, root))
    convert(path, tmp_path / "folder")
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "folder")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert value.dtype == weights[1][name].dtype
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)
    assert Checkpoint.open(tmp_path / "folder").config == config
    convert(tmp_path / "folder", tmp_path / "back.npz", stacked=stacked, root=root)
    assert_same_files(path, tmp_path / "back.npz")


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


def test_each_tensor_keeps_its_type(tmp_path):
    """Where Hugging Face's tensor holds several, the one that holds all their values."""
    params = random_params(BOTH, seed=1)
    for name, kind in {"image.map_head.attn.k.w": np.float64, "text.token_embed": ml_dtypes.bfloat16}.items():
        params[name] = params[name].astype(kind)
    save_npz(tmp_path / "x.npz", BOTH, params)
    convert(tmp_path / "x.npz", tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    types = {name: value.dtype for name, value in tensors.items() if value.dtype != np.float32}
    assert types == {
        "vision_model.head.attention.in_proj_weight": np.float64,
        "text_model.embeddings.token_embedding.weight": ml_dtypes.bfloat16,
    }
    check_equal(Checkpoint.open(tmp_path / "x.npz"), Checkpoint.open(tmp_path / "folder"))


def test_a_difference_is_found(folder):
    arrays = of_folder(folder)
    value = arrays["params/txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel"].copy()
    value[3, 4] = np.nextafter(value[3, 4], 9)
    arrays["params/txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel"] = value
    path = big_vision_npz.write(folder / "x.npz", arrays)
    with pytest.raises(CheckpointError, match=r"text\.blocks\.01\.mlp\.fc1\.w of .*x\.npz is not that of"):
        check_equal(Checkpoint.open(folder), Checkpoint.open(path))


def test_a_difference_in_the_last_row_of_a_large_table_is_found(folder, monkeypatch):
    monkeypatch.setattr(converter, "CHECKED_ROWS", 4)  # of 11
    arrays = of_folder(folder)
    table = arrays["params/txt/Embed_0/embedding"].copy()
    table[10, 3] = -table[10, 3]
    arrays["params/txt/Embed_0/embedding"] = table
    path = big_vision_npz.write(folder / "x.npz", arrays)
    with pytest.raises(CheckpointError, match=r"text\.token_embed of .*x\.npz is not that of"):
        check_equal(Checkpoint.open(folder), Checkpoint.open(path))


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code in (0, 1), result.output
    return result


def test_command(tmp_path, tiny_folder):
    path = tmp_path / "tiny.npz"
    result = run("convert", tiny_folder, path, "--layout", "stacked", "--bare")
    assert result.exit_code == 0 and "bit for bit those of" in result.stderr and result.stdout == ""
    assert "does not tell that images have 38 pixels along a side: for whoever reads it they have 35" in result.stderr
    with np.load(path) as file:
        assert "img/Transformer/encoderblock/LayerNorm_0/scale" in file.files
    result = run("convert", path, tmp_path / "no-tokenizer")
    assert result.exit_code == 0 and "put spiece.model of the model into it" in result.stderr
    result = run("convert", path, tmp_path / "folder", "--tokenizer", tiny_folder, "--image-size", 38)
    assert result.exit_code == 0 and "warning" not in result.stderr
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "spiece.model",
        "tokenizer_config.json",
    ]
    given = golden_image(tmp_path), ["a cat", "two dogs"]
    ours, theirs = (SigLIP.from_pretrained(source)(*given) for source in (tmp_path / "folder", tiny_folder))
    np.testing.assert_array_equal(ours.logits_per_image, theirs.logits_per_image)


def golden_image(folder):
    from PIL import Image

    path = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return str(path)


def test_gemma_is_copied_for_siglip2(tmp_path):
    config = replace(NAFLEX, text=replace(TEXT, vocab_size=1003, seq_len=64))
    save_npz(tmp_path / "x.npz", config, random_params(config, seed=1))
    convert(tmp_path / "x.npz", tmp_path / "out", tokenizer=GOLDEN / "gemma")
    model = SigLIP.from_pretrained(tmp_path / "out")
    assert model.processor.max_num_patches == 16 and model.tokenizer.vocab_size == 1000
    content = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert content["image_processor_type"] == "Siglip2ImageProcessor" and content["resample"] == 2


def test_conversions_that_are_refused(folder, tmp_path, monkeypatch):
    npz = tmp_path / "x.npz"
    convert(folder, npz)
    before = npz.read_bytes()
    with pytest.raises(CheckpointError, match=r"exists already: choose another name"):
        convert(folder, npz)
    with pytest.raises(CheckpointError, match=r"already holds a model \(config\.json"):
        convert(npz, folder)
    with pytest.raises(CheckpointError, match=r"is a folder in Hugging Face's format already: name an \.npz"):
        convert(folder, tmp_path / "other")
    with pytest.raises(InputError, match="a tokenizer has no place in"):
        convert(folder, tmp_path / "y.npz", tokenizer=folder)
    with pytest.raises(InputError, match="image_size 20 does not fit: the model has 4 patches of 4 along a side"):
        convert(npz, tmp_path / "other", image_size=20)
    with pytest.raises(InputError, match="root must be 'params/' or nothing"):
        convert(folder, tmp_path / "y.npz", root="target/")
    with pytest.raises(CheckpointError, match=r"npsiglip convert .*x\.npz FOLDER"):
        quantize_folder(npz, tmp_path / "int8")
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* has 1000 pieces, but the model only 11 rows"):
        convert(npz, tmp_path / "other", tokenizer=GOLDEN / "gemma")
    assert npz.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["model", "x.npz"]


def test_what_an_npz_cannot_hold(tmp_path):
    classifier = SigLIPConfig(IMAGE, None, ClassifierConfig(("a", "b")))
    with pytest.raises(CheckpointError, match="a classifier has no place"):
        save_npz(tmp_path / "x.npz", classifier, random_params(classifier, seed=1))
    other = replace(BOTH, text=replace(TEXT, layer_norm_eps=1e-5))
    with pytest.raises(CheckpointError, match=r"layer_norm_eps is 1e-05, .* its models have 1e-06"):
        save_npz(tmp_path / "x.npz", other, random_params(other, seed=1))
    with pytest.raises(InputError, match=r"must end in \.npz"):
        save_npz(tmp_path / "x", BOTH, random_params(BOTH, seed=1))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(CheckpointError, match=r"x\.npz cannot be written: .*No space left"):
        convert(folder, tmp_path / "x.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_came_out_wrong_is_removed(folder, tmp_path, monkeypatch):
    def differ(*_):
        raise CheckpointError("different")

    monkeypatch.setattr("npsiglip.convert.formats.check_equal", differ)
    with pytest.raises(CheckpointError, match="different"):
        convert(folder, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()


# Files that are refused


def without(name):
    return lambda arrays: {key: value for key, value in arrays.items() if name not in key}


def changed(name, change):
    return lambda arrays: {key: change(value) if key.endswith(name) else value for key, value in arrays.items()}


def renamed(old, new):
    return lambda arrays: {key.replace(old, new): value for key, value in arrays.items()}


BAD = {
    "no block": (without("img/Transformer/encoderblock_0"), "has no img/Transformer/encoderblock_0/MultiHead"),
    "no bias": (without("encoderblock_1/MlpBlock_0/Dense_0/bias"), "- params/img/Transformer/encoderblock_1/MlpBlock"),
    "no head": (without("MAPHead_0"), "params/img/MAPHead_0/probe (image.map_head.probe)"),
    "half a head": (without("txt/head/bias"), "- params/txt/head/bias (text.head.b)"),
    "no texts": (without("txt/"), "has a temperature t, but nothing of txt/"),
    "no images": (without("img/"), "has a temperature t, but nothing of img/"),
    "no temperature": (lambda arrays: {k: v for k, v in arrays.items() if k != "params/t"}, "- params/t (t_prime)"),
    "no positions": (
        without("img/pos_embedding"),
        "has no img/pos_embedding: if it was trained with posemb='sincos2d'",
    ),
    "positions of 2020": (
        renamed("img/pos_embedding", "img/Transformer/posembed_input/pos_embedding"),
        "has no img/pos_embedding: its positions are img/Transformer/posembed_input/pos_embedding, where big_vision",
    ),
    "positions of 2021": (
        renamed("img/pos_embedding", "img/Transformer/pos_embedding"),
        "has no img/pos_embedding: its positions are img/Transformer/pos_embedding, where big_vision had",
    ),
    "projected images": (
        lambda a: a | {"params/img/head/kernel": np.ones((12, 64)), "params/txt/head/kernel": np.ones((8, 64))},
        "has img/head/..., a projection of images to 64 dimensions (big_vision's out_dim=(64, 64))",
    ),
    "projected texts": (
        lambda a: a | {"params/txt/head/kernel": np.ones((8, 64)), "params/txt/head/bias": np.ones(64)},
        "txt/head/kernel takes texts to 64 dimensions, but the image tower has 12",
    ),
    "more": (lambda arrays: arrays | {"params/img/cls": np.zeros(3)}, "+ params/img/cls"),
    "another's": (lambda arrays: {"layer/kernel": np.zeros(3)}, "is no SigLIP model of big_vision"),
    "empty": (lambda arrays: {}, "is no SigLIP model of big_vision"),
    "whole numbers": (changed("/t", lambda x: x.astype(int)), "params/t (t_prime): int64"),
    "big endian": (changed("/t", lambda x: x.astype(">f4")), "params/t (t_prime): >f4"),
    "a shape": (
        changed("encoderblock_1/LayerNorm_0/scale", lambda x: x[:-1]),
        "(image.blocks.01.ln1.scale): [11] stored, [12] by the other tensors",
    ),
    "dimensions": (
        changed("query/kernel", lambda x: x.reshape(12, 12)),
        "must have 3 dimensions, got the shape [12, 1",
    ),
    "17 positions": (
        changed("img/pos_embedding", lambda x: np.zeros((1, 17, 12))),
        "has 17 positions, expected the sq",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(folder, case):
    change, expected = BAD[case]
    assert expected in message(big_vision_npz.write(folder / "x.npz", change(of_folder(folder))))


def test_no_head_of_texts_and_another_width(tmp_path):
    config = replace(BOTH, text=replace(TEXT, width=16))
    save_folder(tmp_path, config, random_params(config, seed=1))
    arrays = without("txt/head")(of_folder(tmp_path))
    text = message(big_vision_npz.write(tmp_path / "x.npz", arrays))
    assert "has no txt/head/kernel, which takes texts of width 16 to images of 12" in text


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
