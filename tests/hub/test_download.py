"""Downloads from a Hub on the loopback address (hub_server.py): what is asked for, and everything that can go wrong."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npsiglip import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.checkpoint import Checkpoint
from npsiglip.cli import console
from npsiglip.errors import CheckpointError, InputError
from npsiglip.hub import download
from npsiglip.hub.cache import cached_snapshot, repository_folder
from npsiglip.hub.resolve import model_folder
from npsiglip.model import SigLIP
from npsiglip.params import random_params
from npsiglip.save import save_folder
from npsiglip.towers.footprint import packed_bytes
from tests.helpers import hub_server
from tests.helpers.command import invoke
from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.hub_server import CHUNK, FILES, REPO, WEIGHTS


def commit(hub, **files):
    """A further commit with other contents, to which "main" moves; the hash of the one before."""
    repository = hub.repositories[REPO]
    before = repository.refs["main"]
    content = repository.commits[before] | files
    repository.refs["main"] = hub_server.commit_of(content).hexdigest()
    repository.commits[repository.refs["main"]] = content
    return before


def weights(hub):
    repository = hub.repositories[REPO]
    return repository.commits[repository.refs["main"]][WEIGHTS]


def refused(name, *phrases):
    with pytest.raises(CheckpointError) as error:
        model_folder(name)
    for phrase in phrases:
        assert phrase in str(error.value)
    return str(error.value)


# What is downloaded


def test_only_what_is_read_is_downloaded_and_once(hub, tmp_path):
    said = []
    folder = model_folder(REPO, say=said.append)
    assert hub.sent == {name: (TINY / name).stat().st_size for name in FILES}
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert all((folder / name).read_bytes() == (TINY / name).read_bytes() for name in FILES)
    assert said == [f"downloading {REPO}, 0.7 MB, to {tmp_path / 'hf/hub'}"]
    hub.forget()
    assert model_folder(REPO, say=said.append) == folder
    assert (hub.requests, len(said)) == ([], 1)


def test_a_revision_is_a_commit(hub):
    old = commit(hub, **{"config.json": (TINY / "config.json").read_bytes() + b"\n"})
    hub.repositories[REPO].refs["v1"] = old
    new = hub.repositories[REPO].refs["main"]
    first = model_folder(REPO, "v1")
    assert (first.name, cached_snapshot(REPO, "v1"), cached_snapshot(REPO)) == (old, first, None)
    hub.forget()
    assert model_folder(REPO).name == new
    assert hub.fetched == ["config.json"]  # the others are the same, and there
    hub.forget()
    assert model_folder(f"{REPO}@{old}") == first
    assert SigLIP.from_pretrained(REPO, revision="v1").tokenizer is not None
    assert hub.requests == []
    commit(hub, **{"config.json": (TINY / "config.json").read_bytes() + b"\n\n"})
    assert model_folder(REPO).name == new  # as it was when it was last fetched
    assert download.download(REPO, None, print).name == hub.repositories[REPO].refs["main"]


def test_shards(hub, tmp_path, tiny_params, tiny_config):
    save_folder("sharded", tiny_config, tiny_params, max_shard_bytes=200_000)
    for name in FILES[2:]:
        shutil.copyfile(TINY / name, Path("sharded", name))
    Path("sharded/model-00001-of-00001.safetensors").write_bytes(b"left over from another save")
    hub.repositories["owner/sharded"] = hub_server.repository("sharded")
    shards = sorted(path.name for path in Path("sharded").glob("model-*-of-00003.safetensors"))
    folder = model_folder("owner/sharded")
    assert hub.fetched == sorted(["config.json", "model.safetensors.index.json", *shards, *FILES[2:]])
    assert len(shards) == 3 and len(Checkpoint.open(folder)) == len(tiny_params)

    hub.forget()
    (folder / shards[1]).unlink()
    (folder / shards[2]).resolve().write_bytes(b"cut short")
    model_folder("owner/sharded")
    assert hub.fetched == [shards[2]]  # of the other one, the content was still there
    assert len(Checkpoint.open("owner/sharded")) == len(tiny_params)


def test_what_was_cut_short_in_the_cache_is_told_and_repaired(hub):
    path = model_folder(REPO) / WEIGHTS
    path.resolve().write_bytes(weights(hub)[:1000])
    with pytest.raises(CheckpointError, match=r"cut short.*download it again"):
        Checkpoint.open(REPO)
    hub.forget()
    download.download(REPO, None, print)
    assert hub.fetched == [WEIGHTS]
    assert path.read_bytes() == weights(hub)


# What goes wrong on the way


def test_a_connection_that_breaks_once_is_continued(hub):
    hub.repositories[REPO].cuts = [100_000]
    assert (model_folder(REPO) / WEIGHTS).read_bytes() == weights(hub)
    assert 0 <= hub.sent[WEIGHTS] - len(weights(hub)) < CHUNK  # what had not filled a chunk came twice


def test_a_connection_that_stays_broken_is_told_and_continued_later(hub):
    hub.repositories[REPO].cuts = [100_000] * 20
    refused(
        REPO, f"{WEIGHTS} of {REPO} at {hub.url} ", "0.6 MB are still missing; what has come is kept: run this again"
    )
    assert cached_snapshot(REPO) is None  # a name leads to nothing unfinished
    (part,) = (repository_folder(REPO) / "blobs").glob("*.incomplete")
    kept = part.stat().st_size
    assert 100_000 - CHUNK < kept <= 100_000
    hub.repositories[REPO].cuts = []
    hub.forget()
    assert (model_folder(REPO) / WEIGHTS).read_bytes() == weights(hub)
    assert hub.sent[WEIGHTS] == len(weights(hub)) - kept
    assert not part.exists()


@pytest.mark.parametrize("name", [WEIGHTS, "spiece.model"])
def test_a_wrong_checksum(hub, name):
    hub.repositories[REPO].damage = {name}
    refused(REPO, f"{name} came with the SHA-256", "has been removed; download it again")
    blobs = [path.read_bytes() for path in (repository_folder(REPO) / "blobs").iterdir()]
    assert not any(len(blob) == (TINY / name).stat().st_size for blob in blobs)
    assert cached_snapshot(REPO) is None
    hub.repositories[REPO].damage = set()
    assert (model_folder(REPO) / name).read_bytes() == (TINY / name).read_bytes()


def test_a_part_that_was_damaged_is_not_taken(hub):
    sha256 = hub_server.sha256_of(weights(hub))
    part = repository_folder(REPO) / "blobs" / f"{sha256}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 1000)
    refused(REPO, "model.safetensors came with the SHA-256")
    part.write_bytes(b"\0" * 10_000_000)  # more than there can be
    assert (model_folder(REPO) / WEIGHTS).read_bytes() == weights(hub)


def test_a_full_disk_is_told_before(hub, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_000))
    refused(REPO, "has 0.3 MB left, and 0.7 MB are to be downloaded", "HF_HUB_CACHE")
    assert hub.fetched == ["config.json"]


def test_a_disk_that_becomes_full_is_told(hub, monkeypatch):
    def write(url, file, **options):
        file.write(b"x" * 300_000)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "http_get", write)
    refused(REPO, "0.4 MB are to be downloaded: make room")


def test_no_right_to_write(hub):
    Path("hf").write_text("a file where the folder must be")
    refused(REPO, "NotADirectoryError")


# What the Hub answers


def change_config(**changes):
    return {"config.json": json.dumps(json.loads((TINY / "config.json").read_text()) | changes).encode()}


def gate(hub):
    hub.repositories[REPO].gated = True


def remove(hub, *names):
    for files in hub.repositories[REPO].commits.values():
        for name in names:
            del files[name]


REFUSED = {
    "no repository": (
        lambda hub: hub.repositories.clear(),
        REPO,
        ["neither a folder here nor a repository at http://"],
    ),
    "gated": (gate, REPO, ["is gated: accept its terms", "hf auth login"]),
    "no revision": (lambda hub: None, f"{REPO}@v2", ["has no revision 'v2'"]),
    "nearly released": (lambda hub: None, "google/siglip-base-patch16-22", ["did you mean siglip-base-patch16-224, "]),
    "other model": (lambda hub: commit(hub, **change_config(model_type="clip")), REPO, ["got 'clip'"]),
    "no config": (lambda hub: remove(hub, "config.json"), REPO, ["has no config.json"]),
    "no weights": (
        lambda hub: remove(hub, WEIGHTS),
        REPO,
        ["has no model.safetensors or model.safetensors.index.json"],
    ),
    "no Hub": (
        lambda hub: os.environ.update(HF_ENDPOINT="http://127.0.0.1:9"),
        REPO,
        ["ConnectError", "config.json, model.safetensors or "],
    ),
    "not the Hub": (lambda hub: os.environ.update(HF_ENDPOINT=f"{hub.url}/x"), REPO, ["404"]),
}


@pytest.mark.parametrize("change, name, phrases", REFUSED.values(), ids=REFUSED)
def test_answers_that_are_no_model(hub, change, name, phrases):
    change(hub)
    refused(name, *phrases)
    assert set(hub.fetched) <= {"config.json"}


def test_a_repository_without_tokenizer_and_image_processor(hub):
    """As `SiglipModel.save_pretrained` writes it; what is said comes when a text is given."""
    remove(hub, "spiece.model", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
    model = SigLIP.from_pretrained(REPO)
    assert model.tokenizer is None
    assert np.isfinite(model.encode_text(np.ones((1, 24), int))).all()
    with pytest.raises(InputError, match=r"no tokenizer, which texts need: put spiece\.model"):
        model.encode_text("a cat")


# Commands


def run(*args):
    console.out.cache_clear()
    console.err.cache_clear()
    return invoke(*args)


def test_fetch_prints_the_folder(hub):
    result = run("models", "--fetch", REPO)
    assert (result.exit_code, result.stdout) == (0, f"{cached_snapshot(REPO)}\n")
    assert result.stderr.startswith(f"downloading {REPO}, 0.7 MB, to ")
    result = run("models", "--fetch", "siglip-base")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "did you mean siglip-base-patch16-" in result.stderr


def test_models_lists_what_is_here(hub):
    model_folder(REPO)
    hub.repositories["google/siglip2-base-patch16-224"] = hub.repositories[REPO]
    model_folder("siglip2-base-patch16-224")
    (model_folder("siglip2-base-patch16-224") / "spiece.model").unlink()
    result = run("models")
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.split("\n\n")[0].splitlines()}
    assert len(rows) == 1 + 1 + 27 + 1
    assert max(map(len, result.stdout.splitlines()[:30])) <= 100
    assert rows["name"] == ["params", "download", "float32", "bfloat16", "int8", "here"]
    assert rows["builtin"][-1] == "yes"
    assert rows["siglip-base-patch16-224"] == ["203.2", "M", "0.81", "GB", "0.71", "GB", "0.36", "GB", "0.19", "GB"]
    assert rows["siglip2-base-patch16-224"][-1] == "partly"
    assert rows[REPO][-1] == "yes"


def test_a_command_downloads_and_the_next_needs_no_network(hub, tmp_path):
    """In processes of their own, the second without huggingface_hub."""
    code = "import sys; sys.modules['huggingface_hub'] = None; from npsiglip.cli import main; main()"
    results = []
    for start, offline in ((["-m", "npsiglip"], "0"), (["-c", code], "1")):
        command = [sys.executable, "-W", "error", *start, "embed", "a cat", "-o", "x.npy", "--model", f"{REPO}@main"]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": offline}
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stderr
        results.append((Path("x.npy").read_bytes(), result.stderr, len(hub.requests)))
        hub.forget()
    assert results[0][0] == results[1][0]
    assert results[0][1].startswith(f"downloading {REPO}")
    assert [more > 0 for _, _, more in results] == [True, False]


# Memory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_packed_bytes_are_those_that_a_model_packs(dtype):
    sizes = {"width": 40, "depth": 2, "num_heads": 2, "mlp_dim": 57}  # that no panel divides
    image = ImageConfig(**sizes, image_size=14, patch_size=7)
    config = SigLIPConfig(image, TextConfig(**sizes, seq_len=5, vocab_size=50, projection_dim=40))
    model = SigLIP(config, random_params(config, 0), dtype=dtype)
    linears = (model._image.linears | model._text.linears).values()
    packed = [linear.packed(keep=True) for linear in linears]
    assert packed_bytes(config, dtype) == sum(p.panels.nbytes + p.scale.nbytes + p.total.nbytes for p in packed)
