"""config.json: what is read, what its defaults are, what is refused and with which words.

Covers json_files.py as well.
"""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError
from npsiglip.variants import VARIANTS, variant

# The content of google/siglip-base-patch16-224's config.json, which leaves out all defaults.
BASE = {
    "architectures": ["SiglipModel"],
    "initializer_factor": 1.0,
    "model_type": "siglip",
    "text_config": {"model_type": "siglip_text_model"},
    "vision_config": {"model_type": "siglip_vision_model"},
}

tower = st.builds(
    lambda heads, dim, depth, mlp: {"width": heads * dim, "depth": depth, "num_heads": heads, "mlp_dim": mlp},
    *[st.integers(1, 9)] * 4,
)
images = st.builds(
    lambda dims, patch, more: ImageConfig(**dims, patch_size=patch, image_size=patch + more),
    tower,
    st.integers(1, 9),
    st.integers(0, 30),
)
flexible = st.builds(
    lambda dims, patch, side: ImageConfig(**dims, patch_size=patch, image_size=patch * side, naflex=True),
    tower,
    st.integers(1, 9),
    st.integers(1, 9),
)
headless = st.builds(lambda image: replace(image, head=False), st.one_of(images, flexible))
texts = st.builds(
    lambda dims, **rest: TextConfig(**dims, **rest),
    tower,
    seq_len=st.integers(1, 9),
    vocab_size=st.integers(1, 9),
    projection_dim=st.integers(1, 9),
    layer_norm_eps=st.sampled_from([1e-6, 1e-5]),
)
configs = st.one_of(
    st.builds(SigLIPConfig, st.one_of(images, flexible, headless), st.none()),
    st.builds(
        SigLIPConfig,
        st.one_of(images, flexible, headless),
        st.none(),
        st.builds(ClassifierConfig, st.lists(st.text(), min_size=2, max_size=4, unique=True).map(tuple), st.booleans()),
    ),
    st.builds(SigLIPConfig, st.none(), texts),
    st.builds(
        lambda image, text: SigLIPConfig(image, TextConfig(**vars(text) | {"projection_dim": image.width})),
        st.one_of(images, flexible),
        texts,
    ),
)


def error(content):
    with pytest.raises(CheckpointError) as raised:
        SigLIPConfig.from_hf(content)
    return str(raised.value)


def vision(**changes):
    return BASE | {"vision_config": changes}


def text(**changes):
    return BASE | {"text_config": changes}


@given(configs)
def test_round_trip(config):
    assert SigLIPConfig.from_hf(json.loads(json.dumps(config.to_hf()))) == config


def test_defaults_are_base_patch16_224():
    base = variant("siglip-base-patch16-224")
    assert SigLIPConfig.from_hf(BASE) == base
    assert SigLIPConfig.from_hf({"model_type": "siglip"}) == base
    assert SigLIPConfig.from_hf({"model_type": "siglip", "text_config": None, "vision_config": None}) == base
    assert SigLIPConfig.from_hf({"model_type": "siglip_vision_model"}) == SigLIPConfig(base.image, None)
    assert SigLIPConfig.from_hf({"model_type": "siglip_text_model"}) == SigLIPConfig(None, base.text)
    assert base.image == ImageConfig(768, 12, 12, 3072, image_size=224, patch_size=16, layer_norm_eps=1e-6)
    assert base.text == TextConfig(768, 12, 12, 3072, seq_len=64, vocab_size=32_000, projection_dim=768)


def test_projection_defaults_to_the_width_of_the_text_tower():
    alone = {"model_type": "siglip_text_model", "hidden_size": 24}
    assert SigLIPConfig.from_hf(alone).text.projection_dim == 24
    assert SigLIPConfig.from_hf(alone | {"projection_size": None}).text.projection_dim == 24
    assert SigLIPConfig.from_hf(alone | {"projection_size": 36}).text.projection_dim == 36


def test_sides_as_lists():
    config = SigLIPConfig.from_hf(vision(image_size=[256, 256], patch_size=[32, 32]))
    assert (config.image.image_size, config.image.patch_size) == (256, 32)


@pytest.mark.parametrize(("size", "patch", "side"), [(224, 16, 14), (384, 14, 27), (17, 4, 4), (5, 5, 1)])
def test_what_the_patch_does_not_divide_is_cropped(size, patch, side):
    config = ImageConfig(8, 1, 2, 9, image_size=size, patch_size=patch)
    assert config.grid_size == side and config.seq_len == side**2


def test_variants():
    assert variant("siglip-so400m-patch14-224").text.seq_len == 16
    assert variant("siglip-so400m-patch14-384").image.seq_len == 729
    assert variant("siglip-base-patch16-256-multilingual").text.vocab_size == 250_000
    for name in VARIANTS:
        image = variant(name).image
        sizes = (f"patch{image.patch_size}-{image.image_size}", "-multilingual", "-i18n", "-naflex")
        assert name.endswith(sizes)
        assert SigLIPConfig.from_hf(variant(name).to_hf()) == variant(name)
        assert variant(f"google/{name}") == variant(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("siglip-base-patch16-225", "siglip-base-patch16-224"),
        ("google/Siglip2-so400m-patch14-378", "siglip2-so400m-patch14-384"),
        ("siglip2-large-naflex", "siglip2-base-patch16-naflex"),
    ],
)
def test_unknown_variants_name_the_nearest(name, near):
    with pytest.raises(CheckpointError, match=f"unknown checkpoint '{name}': did you mean .*{near}"):
        variant(name)


def test_unknown_variants_unlike_all():
    with pytest.raises(CheckpointError, match="unknown checkpoint 'xyz': `npsiglip models` lists all of them"):
        variant("xyz")


@pytest.mark.parametrize("kind", ["clip", "siglip3", "siglip_audio_model", "siglip2_", ["siglip"], 3])
def test_other_model_types(kind):
    assert f"expected model_type 'siglip' or 'siglip2', got {kind!r}: this is another model family" in error(
        {"model_type": kind}
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 'looks like, add "model_type": "siglip" to it'),
        ({"vision_config": {"num_patches": 256}}, 'looks like, add "model_type": "siglip2" to it'),
        ({"text_config": None}, 'looks like, add "model_type": "siglip" to it'),
    ],
)
def test_no_model_type(changes, expected):
    content = {key: value for key, value in BASE.items() if key != "model_type"} | changes
    for missing in ({}, {"model_type": None}):
        text = error(content | missing)
        assert "config.json has no model_type: if this is a SigLIP model" in text and expected in text
        assert "another" not in text


def test_no_model_type_of_one_tower():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1}
    assert 'add "model_type": "siglip_vision_model"' in error(sizes | {"image_size": 224})
    assert 'add "model_type": "siglip2_vision_model"' in error(sizes | {"patch_size": 16, "num_patches": 4})
    assert 'add "model_type": "siglip_text_model"' in error(sizes | {"vocab_size": 99})
    for content, found in (({}, "nothing at all"), ({"layers": 3, "dim": 4}, "dim, layers")):
        assert f"expected a config.json of Hugging Face's SigLIP, found {found}" in error(content)


def test_naflex():
    config = SigLIPConfig.from_hf({"model_type": "siglip2", "vision_config": {"num_patches": 49, "patch_size": 8}})
    assert config.image.naflex and config.image.seq_len == 49 and config.image.image_size == 56
    alone = SigLIPConfig.from_hf({"model_type": "siglip2_vision_model"})
    assert alone.image.naflex and alone.image.seq_len == 256 and alone.text is None
    assert "num_patches must be the square of a whole number, got 255" in error(
        {"model_type": "siglip2", "vision_config": {"num_patches": 255}}
    )


def test_a_tower_without_head():
    config = SigLIPConfig.from_hf({"model_type": "siglip_vision_model", "vision_use_head": False})
    assert not config.image.head
    assert "vision_use_head must be true or false, got 'no'" in error(
        {"model_type": "siglip_vision_model", "vision_use_head": "no"}
    )


def classifier(**changes):
    return BASE | {"architectures": ["SiglipForImageClassification"]} | changes


def test_classifiers():
    """What transformers writes has the numbers as strings, and the text tower's sizes though there is none."""
    config = SigLIPConfig.from_hf(
        classifier(id2label={"1": "dog", "0": "cat"}, problem_type="multi_label_classification")
    )
    assert config.text is None
    assert config.classifier == ClassifierConfig(("cat", "dog"), multi_label=True)
    assert SigLIPConfig.from_hf(classifier()).classifier == ClassifierConfig(("LABEL_0", "LABEL_1"))
    for bad in ({"0": "cat", "2": "dog"}, ["cat"], {"a": "cat"}, {}, {"0": 3, "1": 4}):
        assert "id2label must give names to the numbers 0, 1, 2 ..." in error(classifier(id2label=bad))
    # int() would read these as 1, and the last one would win
    for strange in ("01", " 1", "\u0661"):
        bad = {"0": "cat", "1": "dog", strange: "owl"}
        assert "id2label must give names to the numbers 0, 1, 2 ..." in error(classifier(id2label=bad))
    for kind in ("regression", "multi_label", 3, True, []):
        assert "problem_type must be single_label_classification or" in error(classifier(problem_type=kind))
    for count in (10**12, -1, True, "3", None):
        assert "id2label must give names" in error(classifier(num_labels=count))
    assert "at least two classes, got 1: regression" in error(classifier(id2label={"0": "age"}))


def test_gelu_by_erf_is_read_and_written():
    config = SigLIPConfig.from_hf(vision(hidden_act="gelu"))
    assert (config.image.activation, config.text.activation) == ("gelu_erf", "gelu_tanh")
    written = config.to_hf()
    assert written["vision_config"]["hidden_act"] == "gelu"
    assert written["text_config"]["hidden_act"] == "gelu_pytorch_tanh"
    assert SigLIPConfig.from_hf(written) == config
    with pytest.raises(CheckpointError, match="activation must be 'gelu_tanh' or 'gelu_erf', got 'relu'"):
        replace(config, image=replace(config.image, activation="relu"))


def test_the_mean_instead_of_a_head():
    image = replace(variant("siglip-base-patch16-224").image, head=False, mean=True)
    assert SigLIPConfig(image, None).to_hf()["vision_use_head"] is False
    with pytest.raises(CheckpointError, match="a head or the mean"):
        SigLIPConfig(replace(image, head=True), None)
    with pytest.raises(CheckpointError, match="needs an image tower with head"):
        SigLIPConfig(image, None, ClassifierConfig(("a", "b"), pooled=True))
    pooled = SigLIPConfig(replace(image, head=True, mean=False), None, ClassifierConfig(("a", "b"), pooled=True))
    with pytest.raises(CheckpointError, match="cannot be written in that format"):
        pooled.to_hf()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (vision(hidden_act="gelu_fast"), "vision_config: hidden_act must be 'gelu_pytorch_tanh'"),
        (vision(hidden_act=["gelu"]), "vision_config: hidden_act must be 'gelu_pytorch_tanh'"),
        (text(hidden_act="quick_gelu"), "text_config: hidden_act must be 'gelu_pytorch_tanh'"),
        (vision(vision_use_head=False), "an image tower without head (vision_use_head=false) has no embedding"),
        (vision(num_channels=1), "num_channels must be 3, got 1"),
        (vision(image_size=[224, 256]), "image_size must be one number"),
        (vision(image_size=[]), "image_size must be one number"),
        (vision(image_size="224"), "image_size must be one number"),
        (vision(image_size=["a", "a"]), "image_size must be one number"),
        (vision(image_size=[[224], [224]]), "image_size must be one number"),
        (vision(patch_size=None), "patch_size must be one number"),
        (vision(patch_size=300), "patch_size 300 is larger than image_size 224"),
        (vision(hidden_size=770), "the image tower's width 770 is not a multiple of its 12 heads"),
        (text(num_attention_heads=7), "the text tower's width 768 is not a multiple of its 7 heads"),
        (vision(hidden_size=0), "positive whole numbers; got {'width': 0}"),
        (vision(num_hidden_layers=-1), "got {'depth': -1}"),
        (vision(intermediate_size=3072.0), "got {'mlp_dim': 3072.0}"),
        (text(vocab_size="32000"), "got {'vocab_size': '32000'}"),
        (text(max_position_embeddings=None), "got {'seq_len': None}"),
        (text(num_attention_heads=True), "got {'num_heads': True}"),
        (text(layer_norm_eps="1e-6"), "layer_norm_eps must be a small positive number"),
        (vision(layer_norm_eps=-1e-6), "layer_norm_eps must be a small positive number"),
        (vision(layer_norm_eps=float("nan")), "layer_norm_eps must be a small positive number"),
        (text(hidden_size=384), "ends in 384 dimensions but the image tower in 768"),
        (text(projection_size=1152), "(see `projection_size` in config.json)"),
        (BASE | {"vision_config": [1]}, "vision_config must be an object, got [1]"),
        (BASE | {"text_config": "x"}, "text_config must be an object, got 'x'"),
        (BASE | {"architectures": 1}, "architectures must be a list, got 1"),
        (BASE | {"architectures": "SiglipModel"}, "architectures must be a list"),
        (text(num_hidden_layers=10**9), "the text tower's sizes are beyond any model's: {'depth': 1000000000}"),
        (vision(intermediate_size=10**40), "the image tower's sizes are beyond any model's"),
    ],
)
def test_refused(content, expected):
    assert expected in error(content)


def test_no_tower():
    with pytest.raises(CheckpointError, match="at least one tower"):
        SigLIPConfig(None, None)


def test_from_folder(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(BASE))
    assert SigLIPConfig.from_folder(tmp_path) == SigLIPConfig.from_folder(str(tmp_path)) == SigLIPConfig.from_hf(BASE)
    path.write_text(json.dumps(vision(hidden_act="relu")))
    with pytest.raises(CheckpointError) as raised:
        SigLIPConfig.from_folder(tmp_path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cannot be read as JSON"),
        (b"{", "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "cannot be read as JSON"),
        (b"[1]", "must hold a JSON object, got list"),
        (b'{"model_type": "siglip", "model_type": "siglip2"}', "'model_type' is listed twice"),
        (b"null", "must hold a JSON object, got NoneType"),
    ],
)
def test_bad_files(tmp_path, content, expected):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError) as raised:
        SigLIPConfig.from_folder(tmp_path)
    assert str(tmp_path / "config.json") in str(raised.value) and expected in str(raised.value)


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json does not exist; a model folder .* has config\.json, "):
        SigLIPConfig.from_folder(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        SigLIPConfig.from_folder(tmp_path)
