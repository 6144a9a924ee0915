"""Writing files so that nobody ever sees a half-written one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


def write_all(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write the files `writers` names into `folder`, each complete or not at all, none before all are complete.

    Args:
        folder: must exist; files of these names are replaced, in the order of `writers`.
        writers: name -> what writes that file at the temporary path it is given, on the same file system.

    Raises:
        OSError: if the folder cannot be written; then, and when a writer raises, all files are as they were.
    """
    with tempfile.TemporaryDirectory(prefix=".npsiglip-", dir=folder) as temporary:
        umask_probe = Path(temporary, "umask-probe")
        umask_probe.touch()
        mode = umask_probe.stat().st_mode & 0o777  # some libraries make files that only their owner can read
        for name, write in writers.items():
            path = Path(temporary, name)
            write(path)
            path.chmod(mode)
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        for name in writers:
            Path(temporary, name).replace(folder / name)
    if os.name == "posix":  # the new names too should survive a power cut
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
