"""Downloads from the Hugging Face Hub into its cache: only the files that are read, of one commit, checked.

Whatever the server says changes first, the files are those of the commit that a revision is when it is asked for. Files
appear under their names when they are complete. Large ones ("LFS") are checked by their SHA-256 before; what an
interrupted download left of them stays and is continued. That is done here, since huggingface_hub starts files anew
since 1.18 (its issue 4196) and compares sizes only; everything else is its work: requests, retries, progress bars, the
layout of the cache.

Leaves out: the Xet protocol, whose downloads cannot be continued; the Hub serves the same files over plain HTTP.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers

from npsiglip.errors import CheckpointError, NpsiglipError
from npsiglip.formats.safetensors import INDEX, shards_of
from npsiglip.formats.told import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS
from npsiglip.hub.cache import CONFIG, MAIN, WEIGHTS, Say, cache_folder, files_of, hint, not_here, repository_folder

TIMEOUT: Final = 10.0  # seconds until the Hub must have answered


def endpoint() -> str:
    """The address of the Hub."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def megabytes(size: float) -> str:
    """A size for a message."""
    return f"{size / 1e6:,.1f} MB"


def _check_sha256(path: Path, name: str, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        raise CheckpointError(
            f"{name} came with the SHA-256 {found}, expected {expected}: it was damaged or changed on its way and has "
            "been removed; download it again"
        )


class _Download:
    """The files of one commit of a repository."""

    def __init__(self, repo: str, revision: str | None) -> None:
        info = HfApi(endpoint=endpoint()).model_info(
            repo, revision=revision or MAIN, timeout=TIMEOUT, files_metadata=True
        )
        self.repo, self.commit = repo, info.sha or ""
        self.files = {file.rfilename: file for file in info.siblings or ()}
        self.folder = repository_folder(repo)
        self.snapshot = self.folder / "snapshots" / self.commit

    def get(self, name: str, revision: str | None = None) -> Path:
        """The path of a file, downloaded if the cache lacks it, or has another size of it.

        With a revision the cache remembers that it is the commit of this one file.
        """
        size, large = self.files[name].size, self.files[name].lfs
        path = self.snapshot / name
        for place in (self.folder / "blobs" / large.sha256 if large else path.resolve(), path):
            if place.exists() and place.stat().st_size != size:
                place.unlink()
        if large and not path.exists():
            self._get_large(name, large.size, large.sha256)
        return Path(
            hf_hub_download(
                self.repo, name, revision=revision or self.commit, cache_dir=cache_folder(), endpoint=endpoint()
            )
        )

    def _part(self, sha256: str) -> Path:
        return self.folder / "blobs" / f"{sha256}.incomplete"  # as it was in huggingface_hub before 1.18

    def _get_large(self, name: str, size: int, sha256: str) -> None:
        """Put the content where `hf_hub_download` finds it and only has to name it."""
        blob, part = self.folder / "blobs" / sha256, self._part(sha256)
        lock = cache_folder() / ".locks" / self.folder.name / f"{sha256}.lock"
        for folder in (blob.parent, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if blob.exists():
                return
            if part.exists() and part.stat().st_size > size:
                part.unlink()
            url = hf_hub_url(self.repo, name, revision=self.commit, endpoint=endpoint())
            with part.open("ab") as file:
                done = file.tell()
                http_get(
                    url, file, resume_size=done, headers=build_hf_headers(), expected_size=size, displayed_filename=name
                )
            _check_sha256(part, name, sha256)
            part.replace(blob)

    def missing_bytes(self, names: list[str]) -> int:
        """What is still to be downloaded of these files."""
        total = 0
        for name in names:
            file, path = self.files[name], self.snapshot / name
            part = self._part(file.lfs.sha256) if file.lfs else path
            here = next((place.stat().st_size for place in (path, part) if place.exists()), 0)
            total += max((file.size or 0) - here, 0)
        return total


def _free() -> int:
    return shutil.disk_usage(cache_folder()).free


def _no_room(size: int) -> CheckpointError:
    return CheckpointError(
        f"the disk of {cache_folder()} has {megabytes(_free())} left, and {megabytes(size)} are to be downloaded: make "
        "room, or set HF_HUB_CACHE to a folder on another disk, and run this again; what has come is kept"
    )


def _reason(error: Exception) -> str:
    """What an error of huggingface_hub, of its HTTP library or of the system says, in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0] or 'no answer'}"


def _download(repo: str, revision: str | None, say: Say) -> Path:
    files = _Download(repo, revision)
    where = f"{repo} at {endpoint()} (commit {files.commit[:7]})"
    configs = [name for name in (CONFIG, OPEN_CLIP_CONFIG) if name in files.files]
    if not configs:
        raise CheckpointError(
            f"{where} has no {CONFIG}: expected a SigLIP model in Hugging Face's format, or open_clip's"
        )
    for name in configs:
        folder = files.get(name).parent
    names, lacking = files_of(folder, files.files.__contains__)
    missing = [] if {*WEIGHTS, OPEN_CLIP_WEIGHTS} & {*names} else lacking[:1]
    if INDEX in names:
        names += shards_of(files.get(INDEX))
    missing += [name for name in names if name not in files.files]
    if missing:
        raise CheckpointError(f"{where} has no {', no '.join(missing)}: expected a SigLIP model with safetensors")
    size = files.missing_bytes(names)
    if size > _free():
        raise _no_room(size)
    if size:
        say(f"downloading {repo}, {megabytes(size)}, to {cache_folder()}")
    for name in names:
        try:
            files.get(name)
        except NpsiglipError:
            raise
        except Exception as error:
            size = files.missing_bytes(names)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise _no_room(size) from None
            raise CheckpointError(
                f"{name} of {where} could not be downloaded ({_reason(error)}), {megabytes(size)} are still missing; "
                "what has come is kept: run this again to continue"
            ) from None
    files.get(configs[0], revision or MAIN)  # last, so that a name leads to nothing unfinished
    return files.snapshot


def _explained(error: Exception, repo: str, revision: str | None) -> CheckpointError:
    """What to tell of an error before the large files."""
    place = f"{endpoint()}/{repo}"
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{place} is gated: accept its terms there with your account, then log in with `hf auth login` or set "
            "HF_TOKEN, and run this again"
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{repo} is neither a folder here nor a repository at {endpoint()}: {hint(repo)}check the name; for a "
            "private repository log in with `hf auth login` or set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{place} has no revision {revision!r}: expected a branch, a tag or a commit's hash")
    return not_here(repo, revision, f"{endpoint()}: {_reason(error)}")


def download(repo: str, revision: str | None, say: Say) -> Path:
    """The folder of a repository's files at a revision, after those that the cache lacks have been downloaded.

    Args:
        repo: OWNER/NAME.
        revision: a branch, a tag or a commit's hash; None: "main".
        say: told how much is downloaded, and where to.

    Raises:
        CheckpointError: there is no such repository or revision, it may not be read, or is no SigLIP model; the Hub
            cannot be reached, or the connection broke for good; the disk is full; a file is not what was asked for.
    """
    try:
        return _download(repo, revision, say)
    except NpsiglipError:
        raise
    except Exception as error:  # httpx's or its successor's, the Hub's own, the system's: nobody lists them
        raise _explained(error, repo, revision) from None
