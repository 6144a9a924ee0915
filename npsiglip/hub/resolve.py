"""From a name to the folder of a model: "builtin", a path, or a repository of the Hugging Face Hub.

A repository's files are looked for in the Hub's cache on this machine (`npsiglip.hub.cache`); `npsiglip.hub.download`,
and with it the huggingface_hub package, is imported when something is missing there.

Leaves out: what is in the files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from npsiglip.errors import CheckpointError, InputError
from npsiglip.hub.cache import (
    MAIN,
    Say,
    cached_snapshot,
    find_repository,
    is_offline,
    is_usable,
    missing_files,
    not_here,
)

BUILTIN: Final = "builtin"


def _forget(text: str) -> None:
    pass


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or no name at all
        return False


def _is_empty(folder: Path) -> bool:
    """A folder that holds nothing but hidden files."""
    try:
        return folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())
    except OSError:
        return False


def model_folder(folder_or_name: str | Path, revision: str | None = None, say: Say = _forget) -> Path:
    """The folder of the model `folder_or_name`, downloaded if it is a repository's and not all in the cache.

    Whether a path leads to a folder is not looked at.

    Args:
        folder_or_name: "builtin", a path, or the name of a repository: OWNER/NAME, or a released model's without
            "google/"; also NAME@REVISION. Released names may be in any case. What exists as a path is one, but for an
            empty folder that is named like a repository; a folder named "builtin" is "./builtin". Spaces around a
            name are left out.
        revision: of a repository: a branch, a tag or a commit's hash; None: "main". A branch or tag means the commit
            that it was when it was last fetched.
        say: told before a download what is downloaded.

    Raises:
        CheckpointError: files are not on this machine and cannot be downloaded, or what came is not what was asked for.
        InputError: an empty name; a revision of what has none, or what cannot be one.
    """
    name = folder_or_name if isinstance(folder_or_name, str) else ""  # Path("builtin") is a path
    if isinstance(folder_or_name, str) and not name.strip():
        raise InputError('an empty string stands for a model; expected a name or a folder, such as "builtin"')
    if name and not _exists(Path(name)):
        folder_or_name = name = name.strip()
    is_builtin = name == BUILTIN or (name.lower() == BUILTIN and not _exists(Path(name)))
    path = Path(__file__).parents[1] / "data" / BUILTIN if is_builtin else Path(folder_or_name)
    found = None if _exists(path) and not _is_empty(path) else find_repository(name, revision)
    if found is None:
        if revision is not None:
            raise InputError(f"revision {revision!r} was given for {folder_or_name}, which is no repository of the Hub")
        return path
    repo, revision = found
    snapshot = cached_snapshot(repo, revision or MAIN)
    if snapshot is None or not is_usable(snapshot):
        return fetch(repo, revision, say)
    missing = missing_files(snapshot)  # of tokenizer or image processor, which ids and pixels do not need
    if not missing:
        return snapshot
    try:
        return fetch(repo, revision, say)
    except CheckpointError as error:
        say(str(error))
        return snapshot


def fetch(repo: str, revision: str | None, say: Say) -> Path:
    """Ask the Hub for a revision, and download what the cache lacks of it; see `npsiglip.hub.download`.

    Raises:
        CheckpointError: it cannot be downloaded.
        InputError: a setting from outside that huggingface_hub cannot read.
    """
    if is_offline():
        raise not_here(repo, revision, "HF_HUB_OFFLINE forbids to ask the Hub")
    try:
        from npsiglip.hub.download import download
    except ValueError as error:  # huggingface_hub reads its settings when it is imported
        set_here = ", ".join(sorted(name for name in os.environ if name.startswith("HF_"))) or "none is set"
        raise InputError(
            f"huggingface_hub cannot read its settings ({error}): look at the environment variables that begin with "
            f"HF_ ({set_here})"
        ) from None
    return download(repo, revision, say)
