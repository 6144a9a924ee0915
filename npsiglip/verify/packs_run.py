"""The command that leaves a candidate: run with the pack and an empty folder, and stopped if it hangs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path

from npsiglip.errors import InputError
from npsiglip.verify.files import read_traces
from npsiglip.verify.packs import Pack
from npsiglip.verify.packs_score import PackReport, score

LAST_WORDS = 2000  # bytes of what a command says that are looked at


def is_trace(candidate: str) -> bool:
    """Whether a candidate is a folder or a trace, and no command."""
    path = Path(candidate)
    return path.is_dir() or path.suffix in (".safetensors", ".npz")


def run_command(command: str, pack: Path, output: Path, seconds: float) -> None:
    """Run a command with the pack's folder and a folder for its results as last arguments, without a shell.

    Raises:
        InputError: it cannot be run, fails, or takes too long; then it and what it started are ended.
    """
    try:
        words = [*shlex.split(command), str(pack), str(output)]
    except ValueError as error:
        raise InputError(f"the command {command!r} cannot be read: {error}") from None
    with tempfile.TemporaryFile() as said:  # no pipe, which a child that lives on would keep open
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{command!r} is neither a folder, nor a .safetensors or .npz file, nor a command that can be run: "
                f"{error}"
            ) from None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise InputError(
                f"the command {command!r} took more than {seconds:g} s: give more with --timeout"
            ) from None
        finally:
            if process.poll() is None:
                _end(process)
        if code:
            said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_WORDS))
            lines = said.read().decode("utf-8", "replace").strip().splitlines()[-3:]
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise InputError(f"the command {command!r} {how}: {' / '.join(lines) or 'it said nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def verify_pack(
    pack: str | Path, candidate: str, dtype: str | None = None, seconds: float = 600, repeat: str = ""
) -> PackReport:
    """Hold a candidate to a pack.

    Args:
        pack: its folder.
        candidate: a folder or file with results, see `read_traces`; or a command that leaves them.
        dtype: what it computes in, see `score`.
        seconds: how long a command may take.
        repeat: the command that does this again.

    Raises:
        InputError: no candidate; no pack; a command that fails or hangs; results that cannot be read.
    """
    if not candidate.strip():
        raise InputError("an empty text stands for a candidate; expected a folder, a file or a command")
    opened = Pack(pack)
    if is_trace(candidate):
        return score(opened, read_traces(candidate), dtype, repeat)
    with tempfile.TemporaryDirectory(prefix="npsiglip-") as folder:
        run_command(candidate, opened.folder.resolve(), Path(folder), seconds)
        written = list(Path(folder).iterdir())
        if not written:
            raise InputError(f"the command {candidate!r} wrote nothing into the folder that it was given last")
        only = written[0] if len(written) == 1 and written[0].suffix in (".safetensors", ".npz") else Path(folder)
        return score(opened, dict(read_traces(only)), dtype, repeat)
