"""Ctrl-C while machine code is made: remembered, and raised when it can do no harm.

Python turns SIGINT into a KeyboardInterrupt wherever it happens to be. Within a compilation that is inside callbacks of
LLVM, where Python drops exceptions (the program goes on as if nothing had happened), or halfway through tables that
later compilations read. So SIGINT waits there, for seconds at most: until one kernel is compiled.

Only in the main thread, which is where Python handles signals, and only where SIGINT does what Python or our command
made it do: whoever installed a handler of their own keeps it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

seen = False  # whether the command was interrupted, see `remember`


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The command's handler: a KeyboardInterrupt, and a note of it, should it be lost in a callback all the same."""
    global seen
    seen = True
    raise KeyboardInterrupt


class _Pending:
    """What SIGINT finds while it has to wait."""

    def __init__(self) -> None:
        self.depth, self.number = 0, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        global seen
        self.number += 1
        seen = True

    def take(self) -> bool:
        """Whether there was one; it is no longer pending then."""
        number, self.number = self.number, 0
        return number > 0


_pending = _Pending()


def remember() -> None:
    """Let the command know at its end that it was interrupted, by `seen`."""
    global seen
    seen = False
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) in _OURS:
        signal.signal(signal.SIGINT, _interrupt)


def forget() -> None:
    """At the end of the command: from now on Ctrl-C just ends the process, as it does in other programs."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


_OURS = (signal.default_int_handler, _interrupt)


class deferred:
    """A context in which SIGINT waits; at its end, or at a `check` in it, there is the KeyboardInterrupt.

    Such contexts can lie within each other: it waits for the end of the outermost, or for a `check`.
    """

    def __enter__(self) -> None:
        self._before = self._counts = None
        if threading.current_thread() is not threading.main_thread():
            return
        if _pending.depth == 0:
            before = signal.getsignal(signal.SIGINT)
            if before not in _OURS:
                return
            if seen and before is _interrupt:  # the command's was lost before, in a callback of the import system
                raise KeyboardInterrupt
            _pending.number = 0
            signal.signal(signal.SIGINT, _pending)
            self._before = before
        _pending.depth += 1
        self._counts = True

    def __exit__(self, kind: object, value: BaseException | None, traceback: object) -> None:
        if not self._counts:
            return
        _pending.depth -= 1
        if self._before is not None:
            if signal.getsignal(signal.SIGINT) is _pending:
                signal.signal(signal.SIGINT, self._before)
            if _pending.take() and not isinstance(value, KeyboardInterrupt):
                raise KeyboardInterrupt from value


def check() -> None:
    """Raise the KeyboardInterrupt that is waiting, if one is: between two compilations, where nothing is half done."""
    if threading.current_thread() is threading.main_thread() and _pending.depth and _pending.take():
        raise KeyboardInterrupt
