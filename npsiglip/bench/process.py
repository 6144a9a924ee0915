"""This end of the pipe to a worker; the other end, and the messages, are in `npsiglip.bench.worker`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from npsiglip.errors import InputError, NpsiglipError

WORKER = Path(__file__).with_name("worker.py")
LAST_LINES = 8  # of what a worker wrote before it ended
MAX_REASON = 1000  # characters


class WorkerError(NpsiglipError):
    """A worker failed or ended."""


class MissingModule(WorkerError):
    """A worker's Python lacks a package, named by `args[1]`."""

    def __str__(self) -> str:
        return str(self.args[0])


class Worker:
    """A running engine. Leaving its context ends it, whatever it is doing.

    Args:
        name: for messages.
        command: what to run, as for `subprocess`.
        environment: variables beside those of this process.
        say: told what the worker says it is doing.

    Raises:
        InputError: the command cannot be run.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self.name, self.say = name, say
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **environment},
                encoding="utf-8",
            )
        except OSError as error:
            self._errors.close()
            raise InputError(
                f"{command[0]!r} cannot be run ({error.strerror}); expected a Python interpreter: check the path"
            ) from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):  # a request that the worker did not live to read
                stream.close()  # type: ignore[union-attr]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            MissingModule: the worker cannot import what its engine needs.
            WorkerError: it failed, ended, or wrote something that is not an answer.
        """
        assert self._process.stdin
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            self._fail(do)
        answer = self._receive(do)
        while "say" in answer:
            self.say(answer["say"])
            answer = self._receive(do)
        if "ok" in answer:
            return dict(answer["ok"])
        failed = f"the worker for {self.name} could not {do}"
        if answer.get("missing"):
            raise MissingModule(f"{failed}: {answer['error']}", answer["missing"])
        raise WorkerError(f"{failed}: {str(answer.get('error'))[:MAX_REASON]}")

    def _receive(self, do: str) -> dict[str, Any]:
        """The next message."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._fail(do)
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise WorkerError(f"the worker for {self.name} wrote what is no answer: {line[:200]!r}")
        return message

    def _fail(self, do: str) -> NoReturn:
        """Report a worker that has ended, with the last lines of what it wrote."""
        code = self._process.wait()
        how = f"with exit code {code}"
        if code < 0:
            how = f"by signal {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += ", which is how the system ends a process when memory runs out"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
        wrote = "\n".join(["Its last lines:", *(f"  {line}" for line in lines)]) if lines else "It wrote nothing."
        raise WorkerError(f"the worker for {self.name} ended {how} when it was asked to {do}. {wrote}")


def engine_command(engine: str, python: str) -> list[str]:
    """Run one of `npsiglip.bench.engines` by a Python that need not have npsiglip."""
    return [python, str(WORKER), engine]
