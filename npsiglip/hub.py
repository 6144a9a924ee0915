"""From a name to the folder of a model: "builtin", a path, or a repository of the Hugging Face Hub.

A repository's files are looked for in the Hub's cache on this machine (`npsiglip.hub_cache`); `npsiglip.download`, and
with it the huggingface_hub package, is imported when something is missing there.

Leaves out: what is in the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from npsiglip.errors import CheckpointError, InputError
from npsiglip.hub_cache import (
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


def model_folder(folder_or_name: str | Path, revision: str | None = None, say: Say = _forget) -> Path:
    """The folder of the model `folder_or_name`, downloaded if it is a repository's and not all in the cache.

    Whether a path leads to a folder is not looked at.

    Args:
        folder_or_name: "builtin", a path, or the name of a repository: OWNER/NAME, or a released model's without
            "google/"; also NAME@REVISION. What exists as a path is one; a folder named "builtin" is "./builtin".
        revision: of a repository: a branch, a tag or a commit's hash; None: "main". A branch or tag means the commit
            that it was when it was last fetched.
        say: told before a download what is downloaded.

    Raises:
        CheckpointError: files are not on this machine and cannot be downloaded, or what came is not what was asked for.
        InputError: a revision of what has none, or what cannot be one.
    """
    name = folder_or_name if isinstance(folder_or_name, str) else ""  # Path("builtin") is a path
    path = Path(__file__).parent / "data" / BUILTIN if name == BUILTIN else Path(folder_or_name)
    found = None if _exists(path) else find_repository(name, revision)
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
    """Ask the Hub for a revision, and download what the cache lacks of it; see `npsiglip.download`.

    Raises:
        CheckpointError: it cannot be downloaded.
    """
    if is_offline():
        raise not_here(repo, revision, "HF_HUB_OFFLINE forbids to ask the Hub")
    from npsiglip.download import download

    return download(repo, revision, say)
