"""Samples as files: a WebDataset tar or a folder, with a picture, its caption and the facts of each.

Names are those of WebDataset: 000000.png, 000000.txt, 000000.json. Archives carry no times and no owners, so the same
samples are the same bytes. All of it appears at once, when it is complete.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from npsiglip.atomic import write_all
from npsiglip.errors import InputError
from npsiglip.folder_names import check_folder_name
from npsiglip.world.stream import World

Say = Callable[[int, int], None]

_SAMPLE = re.compile(r"\d{6,}\.(png|txt|json)")


def _nothing(done: int, count: int) -> None:
    pass


def sample_files(world: World, index: int) -> dict[str, bytes]:
    """Suffix -> content: the picture as PNG, the caption, and in JSON what is in the picture and where it is from."""
    image, caption, scene = world.sample(index)
    png = io.BytesIO()
    image.save(png, "PNG")
    origin = {"index": index, "seed": world.seed, "split": world.split}
    facts = json.dumps(origin | asdict(scene))
    return {"png": png.getvalue(), "txt": caption.encode(), "json": facts.encode()}


def _files(world: World, count: int, say: Say) -> Iterator[tuple[str, bytes]]:
    digits = max(6, len(str(count - 1)))
    for index in range(count):
        for suffix, content in sample_files(world, index).items():
            yield f"{index:0{digits}}.{suffix}", content
        say(index + 1, count)


def _write_tar(path: Path, world: World, count: int, say: Say) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in _files(world, count, say):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))


def _write_folder(target: Path, world: World, count: int, say: Say) -> None:
    """Beside the target first; an old folder makes way at the last moment, and comes back if that fails."""
    with tempfile.TemporaryDirectory(prefix=".npsiglip-", dir=target.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        for name, content in _files(world, count, say):
            Path(new, name).write_bytes(content)
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise


def check_target(out: Path, force: bool) -> Path:
    """What will be written, links followed, if nothing that is not to be lost stands there.

    Raises:
        InputError: it exists, unless `force` is set or it is an empty folder; with `force`, a folder that holds
            anything but samples, or a folder where a tar is to be; a place where nothing can be written.
    """
    try:
        target = out.resolve()
        is_tar = out.suffix.lower() == ".tar"
        if not is_tar:
            check_folder_name(out, ", or NAME.tar for an archive")
        if target.exists():
            if target.is_dir() == is_tar:
                raise InputError(
                    f"{str(out)!r} is a {'folder' if is_tar else 'file'}; expected the name of a .tar file, or of a "
                    "folder, without this ending"
                )
            others = [] if is_tar else [p.name for p in sorted(target.iterdir()) if not _SAMPLE.fullmatch(p.name)]
            if others:
                raise InputError(
                    f"{str(out)!r} holds {others[0]!r}, which is no sample, and would be lost; choose another folder"
                )
            if not force and (is_tar or any(target.iterdir())):
                raise InputError(f"{str(out)!r} exists; choose another name, or replace it with --force")
        with tempfile.TemporaryDirectory(prefix=".npsiglip-", dir=target.parent):
            return target
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _refusal(out, error) from None


def _refusal(out: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or error
    return InputError(
        f"{str(out)!r} cannot be written ({reason}); expected a name in a folder that exists and can be written, with "
        "space left"
    )


def write_samples(world: World, count: int, out: str | Path, force: bool = False, say: Say = _nothing) -> Path:
    """Write samples 0 to count - 1 of a world, completely or not at all.

    Args:
        world: which.
        count: how many, at least 1.
        out: NAME.tar for a WebDataset tar; any other name is a folder of the same files.
        force: replace a tar, or a folder of samples, that stands there.
        say: told after each sample how many are done, and of how many.

    Returns:
        The path that was written.

    Raises:
        InputError: a count below 1, or what `check_target` refuses, or a disk that fills up: what was there stays.
    """
    if count < 1:
        raise InputError(f"the count of samples must be 1 or more, got {count}")
    out = Path(out)
    target = check_target(out, force)
    try:
        if target.suffix.lower() == ".tar":
            write_all(target.parent, {target.name: lambda path: _write_tar(path, world, count, say)})
        else:
            _write_folder(target, world, count, say)
    except OSError as error:
        raise _refusal(out, error) from None
    return target
