"""From names to folders without any network: the built-in model, paths, and the Hub's cache as it lies on the disk.

Covers hub/cache.py as well.
"""

import importlib
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

import npsiglip
from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import CheckpointError, InputError
from npsiglip.hub.cache import cache_folder, find_repository, hint, is_offline, missing_files
from npsiglip.hub.resolve import model_folder
from npsiglip.save import save_folder
from tests.helpers.golden_data import TINY
from tests.helpers.hub_server import FILES, PLACES

PACKAGE = Path(npsiglip.__file__).parent
COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def cached(tmp_path, repo="owner/tiny", commit=COMMIT, **refs):
    """The tiny model in the cache, as the Hub's client leaves it: blobs, and links to them."""
    folder = tmp_path / "hf/hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for place in (snapshot, folder / "blobs", folder / "refs"):
        place.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(TINY / name, folder / "blobs" / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    for ref, value in refs.items():
        (folder / "refs" / ref).write_text(value)
    return snapshot


def test_names_and_paths(tmp_path):
    assert model_folder("builtin") == PACKAGE / "data" / "builtin"
    for path in (
        "./builtin",
        Path("builtin"),
        "./owner/tiny",
        "/owner/tiny",
        "a/b/c",
        "nowhere",
        "x" * 5000,
        "model.npz",
    ):
        assert model_folder(path) == Path(path)
    (tmp_path / "owner/tiny").mkdir(parents=True)
    (tmp_path / "owner/tiny/notes.txt").touch()
    assert model_folder("owner/tiny") == Path("owner/tiny")  # what is there as a path is one
    assert model_folder(Path("owner/other")) == Path("owner/other")


def test_checkpoints_open_by_name():
    assert Checkpoint.open("builtin").folder == PACKAGE / "data" / "builtin"
    with pytest.raises(CheckpointError, match="builtin does not exist"):
        Checkpoint.open("./builtin")
    near = r"siglip-base-patch16-22 does not exist; .* did you mean siglip-base-patch16-224, "
    with pytest.raises(CheckpointError, match=near):
        Checkpoint.open("siglip-base-patch16-22")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("google/siglip-base-patch16-224", ("google/siglip-base-patch16-224", None)),
        ("siglip2-base-patch16-naflex", ("google/siglip2-base-patch16-naflex", None)),
        ("siglip-base-patch16-224@v1.0", ("google/siglip-base-patch16-224", "v1.0")),
        ("SigLIP-Base-Patch16-224", ("google/siglip-base-patch16-224", None)),
        ("Google/SigLIP2-Base-Patch16-NaFlex@V1", ("google/siglip2-base-patch16-naflex", "V1")),
        ("  google/siglip-base-patch16-224\n", ("google/siglip-base-patch16-224", None)),
        ("Some-One/my.model_2@refs/pr/1", ("Some-One/my.model_2", "refs/pr/1")),
        *(
            (name, None)
            for name in ("siglip-huge", "a/b/c", "/a/b", "./a", "../a", "a/", "~/a", "a b/c", "a/b.npz", "")
        ),
    ],
)
def test_names_of_repositories(name, found):
    assert find_repository(name) == found


def test_revisions_of_what_has_none():
    for name, revision in (("builtin", "main"), ("./a", "main"), ("a/b@v1", "v1"), ("a/b@", None), ("a/b", "../v1")):
        with pytest.raises(InputError, match="revision"):
            model_folder(name, revision)
    with pytest.raises(InputError, match="revision"):
        SigLIP.from_pretrained("builtin", revision="main")


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"XDG_CACHE_HOME": "/x/cache"},
        {"XDG_CACHE_HOME": "/x/cache", "HF_HOME": "~/hf"},
        {"HF_HOME": "/x/$PLACE", "PLACE": "there"},
        {"HF_HOME": "/x/hf", "HUGGINGFACE_HUB_CACHE": "/old"},
        {"HF_HOME": "/x/hf", "HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "~/new"},
        {"HF_HUB_OFFLINE": "yes"},
        {"HF_HUB_OFFLINE": "0"},
        {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"},
        {"TRANSFORMERS_OFFLINE": "1"},
    ],
    ids=str,
)
def test_the_environment_is_read_as_by_the_client_of_the_hub(env, monkeypatch):
    with monkeypatch.context() as patch:
        for name in PLACES:
            patch.delenv(name, raising=False)
        for name, value in env.items():
            patch.setenv(name, value)
        importlib.reload(constants)  # which reads it when it is imported
        assert (str(cache_folder()), is_offline()) == (constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE)
    with monkeypatch.context() as patch:
        patch.delenv("HF_HUB_OFFLINE")
        importlib.reload(constants)


def test_cached_models_by_name_branch_and_commit(tmp_path):
    first, second = cached(tmp_path, main=COMMIT, v1=OTHER), cached(tmp_path, commit=OTHER)
    assert model_folder("owner/tiny") == first
    assert model_folder("owner/tiny", "main") == first
    assert model_folder("owner/tiny@v1") == second
    assert model_folder("owner/tiny", OTHER) == second
    assert Checkpoint.open("owner/tiny", "v1").folder == second
    assert SigLIP.from_pretrained("owner/tiny", revision=OTHER).tokenizer is not None
    released = cached(tmp_path, "google/siglip-base-patch16-224", main=COMMIT)
    assert model_folder("siglip-base-patch16-224") == released


@pytest.mark.parametrize("name", FILES)
def test_what_lacks_in_the_cache_is_named(tmp_path, name):
    """And is an error if nothing can be done without it; otherwise the text or the image that needs it gets one."""
    snapshot = cached(tmp_path, main=COMMIT)
    (snapshot / name).resolve().unlink()  # the link stays
    assert missing_files(snapshot) != []
    if name in ("config.json", "model.safetensors"):
        with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE") as error:
            model_folder("owner/tiny")
        said = str(error.value)
    else:
        told = []
        assert model_folder("owner/tiny", say=told.append) == snapshot
        (said,) = told
    for phrase in (name, str(snapshot), f"folder of this name in {tmp_path}", "npsiglip models --fetch owner/tiny"):
        assert phrase in said


def test_a_towers_own_files_are_enough(tmp_path, tiny_params, tiny_config):
    image = npsiglip.SigLIPConfig(image=tiny_config.image, text=None)
    save_folder(tmp_path / "image", image, {k: v for k, v in tiny_params.items() if k.startswith("image.")})
    assert missing_files(tmp_path / "image") == ["preprocessor_config.json or processor_config.json"]
    text = npsiglip.SigLIPConfig(image=None, text=tiny_config.text)
    save_folder(tmp_path / "text", text, {k: v for k, v in tiny_params.items() if k.startswith("text.")})
    assert missing_files(tmp_path / "text") == [
        "spiece.model or tokenizer.json or tokenizer.model",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("name", ["owner/other", "google/siglip-base-patch16-22", "owner/tiny@v2"])
def test_what_is_not_in_the_cache(tmp_path, name):
    cached(tmp_path, main=COMMIT)
    message = f"{name} is not on this machine: config.json, model.safetensors or .*, tokenizer_config.json missing in "
    with pytest.raises(CheckpointError, match=message) as error:
        model_folder(name)
    assert ("did you mean siglip-base-patch16-224, " in str(error.value)) == (name.startswith("google"))


def test_names_in_another_case_and_with_spaces_around(tmp_path):
    snapshot = cached(tmp_path, "google/siglip-base-patch16-224", main=COMMIT)
    for name in ("SigLIP-Base-Patch16-224", " siglip-base-patch16-224 ", "GOOGLE/siglip-base-patch16-224"):
        assert model_folder(name) == snapshot
    for name in ("BuiltIn", " builtin"):
        assert model_folder(name) == PACKAGE / "data" / "builtin"
    (tmp_path / "Builtin").mkdir()
    assert model_folder("Builtin") == Path("Builtin")  # what is there as a path is one
    (tmp_path / " odd ").mkdir()
    assert model_folder(" odd ") == Path(" odd ")
    for empty in ("", " "):
        with pytest.raises(InputError, match="empty string"):
            SigLIP.from_pretrained(empty)


@pytest.mark.parametrize("name", ["siglip-base-patch16-224", "google/siglip-base-patch16-224", "owner/tiny"])
def test_an_empty_folder_hides_no_model(tmp_path, name):
    repo = name if "/" in name else f"google/{name}"
    snapshot = cached(tmp_path, repo, main=COMMIT)
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / ".DS_Store").touch()
    assert model_folder(name) == snapshot
    (tmp_path / name / "config.json").touch()
    assert model_folder(name) == Path(name)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("timm/ViT-B-16-SigLIP", False),
        ("timm/vit_base_patch16_siglip_224", False),
        ("ViT-SO400M-14-SigLIP-384", False),
        ("vit_base_patch16_siglip_224", False),
        ("openai/clip-vit-base-patch16", False),
        ("somebody/siglip-base-finetuned", False),
        ("gogle/siglip-base-patch16-224", True),
        ("google/siglip-base-patch16-22", True),
        ("google/siglip-base-patch16-224", False),
        ("siglip-base", True),
        ("siglip-huge", True),
    ],
)
def test_only_who_means_a_released_model_is_asked_for_another(name, asked):
    assert hint(name).startswith("did you mean ") == asked
