"""Repositories of the Hugging Face Hub: their names, the files that are read, and where they are on this machine.

Files are looked for in the Hub's cache, which other programs share: without network, and without the huggingface_hub
package.

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache for the layout of the cache,
`models--OWNER--NAME/{refs,snapshots,blobs}`, and the page on environment variables for where it is.

Leaves out: files in other formats than safetensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.openclip_config import check_settings
from npsiglip.formats.safetensors import INDEX, SINGLE, shards_of
from npsiglip.formats.told import HUGGING_FACE, OPEN_CLIP, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, folder_form
from npsiglip.variants import OTHER_OWNER, OWNER, SPELT_ALIKE, VARIANTS, nearest

MAIN = "main"

CONFIG = "config.json"
WEIGHTS = (SINGLE, INDEX)  # the first that there is; so with the following
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("spiece.model", "tokenizer.json", "tokenizer.model")
TOKENIZER_CONFIG = "tokenizer_config.json"
OPEN_CLIP_TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model")
OPTIONAL = (*PROCESSORS, "special_tokens_map.json", "added_tokens.json")  # small, and read where they are

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.npz)", re.ASCII)
_REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Where the Hub's files are on this machine, by the same variables as in huggingface_hub."""
    env = os.environ
    home = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    place = env.get("HF_HUB_CACHE") or env.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")  # noqa: PTH118
    return Path(os.path.expandvars(place)).expanduser()


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the Hub."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def repository_folder(repo: str) -> Path:
    """The folder of OWNER/NAME in the cache, whether it is there or not."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def cached_snapshot(repo: str, revision: str = MAIN) -> Path | None:
    """The folder of a revision's files in the cache, if there is one; files may lack in it.

    Args:
        repo: OWNER/NAME.
        revision: a branch or a tag, as it was when it was last asked for; or a commit's hash.
    """
    folder = repository_folder(repo)
    try:
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def files_of(folder: Path, has: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """What is read of a model's files, of those that it `has`; and what it lacks. Without the shards of an index.

    Nothing can be done without configuration and weights, which stand first; texts and images need the others.

    Args:
        folder: where the model's configuration is, in Hugging Face's format, open_clip's or timm's.
        has: whether a file of this name is there, or could be fetched.

    Raises:
        CheckpointError: the configuration cannot be read, or is that of another model.
    """
    form = folder_form(folder)
    needed: list[tuple[str, ...]] = [(CONFIG,), WEIGHTS]
    if form != HUGGING_FACE:
        check_settings(folder, form)
        if form == OPEN_CLIP:
            needed = [(OPEN_CLIP_CONFIG,), (OPEN_CLIP_WEIGHTS,), OPEN_CLIP_TOKENIZERS, (TOKENIZER_CONFIG,)]
    else:
        config = SigLIPConfig.from_folder(folder)
        if config.image:
            needed.append(PROCESSORS)
        if config.text:
            needed += [TOKENIZERS, (TOKENIZER_CONFIG,)]
    found = [next(filter(has, names), "") for names in needed]
    lacking = [" or ".join(names) for names, name in zip(needed, found, strict=True) if not name]
    return list(dict.fromkeys([name for name in [*found, *OPTIONAL] if name and has(name)])), lacking


def missing_files(folder: Path) -> list[str]:
    """What a model folder lacks to be used.

    Raises:
        CheckpointError: its config.json or the index of its weights cannot be read.
    """
    if not any((folder / name).is_file() for name in (CONFIG, OPEN_CLIP_CONFIG)):
        return [CONFIG]
    names, missing = files_of(folder, lambda name: (folder / name).is_file())
    if INDEX in names:
        missing += [name for name in shards_of(folder / INDEX) if not (folder / name).is_file()]
    return missing


def is_usable(folder: Path) -> bool:
    """Whether a model folder has its configuration and all of its weights, which token ids and pixels need.

    Raises:
        CheckpointError: the index of its weights cannot be read.
    """
    if (folder / OPEN_CLIP_CONFIG).is_file() and (folder / OPEN_CLIP_WEIGHTS).is_file():
        return True
    if not (folder / CONFIG).is_file() or not any((folder / name).is_file() for name in WEIGHTS):
        return False
    return (folder / SINGLE).is_file() or all((folder / name).is_file() for name in shards_of(folder / INDEX))


def hint(repo: str) -> str:
    """For a message about a repository: which released ones are spelt like it, unless it is one.

    Whoever names another owner means another model, unless all but a letter is that of a released one.
    """
    owner, slash, name = repo.rpartition("/")
    if (name in VARIANTS and owner in ("", OWNER)) or name.lower().startswith(
        "vit"
    ):  # as open_clip and timm name theirs
        return ""
    return nearest(repo, OTHER_OWNER if slash and owner.lower() != OWNER else SPELT_ALIKE)


def not_here(repo: str, revision: str | None, reason: str) -> CheckpointError:
    """The error that a model is not on this machine, and cannot be fetched for this reason."""
    snapshot = cached_snapshot(repo, revision or MAIN)
    everything = [" or ".join(names) for names in ((CONFIG,), WEIGHTS, PROCESSORS, TOKENIZERS, (TOKENIZER_CONFIG,))]
    missing = missing_files(snapshot) if snapshot else everything
    name = f"{repo}@{revision}" if revision else repo
    return CheckpointError(
        f"{name} is not on this machine: {', '.join(missing)} missing in {snapshot or repository_folder(repo)}, and "
        f"there is no folder of this name in {Path.cwd()}; it cannot be downloaded: {reason}\n"
        f"{hint(repo)}fetch it when the Hub can be reached: npsiglip models --fetch {name}"
    )


def find_repository(name: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """OWNER/NAME and revision, if this names a repository: OWNER/NAME or a released model's name, also NAME@REVISION.

    Released names may be in any case; spaces around a name are left out.

    Raises:
        InputError: two revisions, or what cannot be one.
    """
    name, at, pinned = name.strip().partition("@")
    known = name.lower().removeprefix(f"{OWNER}/")
    if known in VARIANTS:
        name = f"{OWNER}/{known}"
    if not _REPOSITORY.fullmatch(name):
        return None
    if at and revision is not None:
        raise InputError(f"{name}@{pinned} names a revision, and another was given, {revision!r}: give one of them")
    revision = pinned if at else revision
    if revision is not None and not _REVISION.fullmatch(revision):
        raise InputError(f"revision must be a branch, a tag or a commit's hash, got {revision!r}")
    return name, revision
