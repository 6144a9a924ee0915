"""On how many threads kernels run, whose turn it is, and what is left of both after a fork.

Kernels run on Numba's thread pool, which is started when more than one thread is first wanted. Whoever computes does
so within `computing`, and nobody has locks of their own for it: a tower from its packing to its result, a step of
training and one of the optimiser, each block of the loss. It holds `RUN_LOCK`, since

- a model's work arrays, packed weights and recorded passes are used again by its next pass;
- one of the pool's possible backends (workqueue) is not safe for concurrent callers;
- two passes at once would only share the same cores.

A process that is forked has the memory of its parent, but one thread of it. So a fork waits until no other thread
computes or compiles: then no lock is held by a thread that is gone, and nothing is half done. A pool that was started
before cannot be used in the child (GNU OpenMP ends the process), nor started again: the child computes on one thread,
with the same bits. A child of a process that had started none starts its own.
"""

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
from llvmlite.binding import ffi
from numba.core.compiler_lock import global_compiler_lock

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred
from npsiglip.kernels import cpus

FORK_SECONDS = 300.0  # that a fork waits for other threads at most; a first pass compiles for a minute

_own = threading.local()  # .count: of this thread, as `thread_count` has set it
_forked = {"pool": False, "torn": False, "told": False}  # what this process lacks, as the child of another


class _RunLock:
    """A reentrant lock, as a context. Who wants it passes a gate first, which a fork that waits for it has closed.

    Without the gate a thread that computes all the time would take the lock again before the fork could.

    Raises:
        InputError: in a process that was forked in the middle of another thread's pass, where it would never be free.
    """

    def __init__(self):
        self.lock, self.gate = threading.RLock(), threading.Lock()
        self._owner, self._depth = 0, 0

    def __enter__(self):
        if _forked["torn"]:
            raise InputError(
                "this process was forked while another thread compiled kernels or computed, which did not end within "
                f"{FORK_SECONDS:.0f} seconds, and cannot compute: start processes with 'spawn' or 'forkserver', or "
                "load the model after the fork"
            )
        me = threading.get_ident()
        if self._owner != me:
            with self.gate:
                pass
        self.lock.acquire()
        self._owner, self._depth = me, self._depth + 1

    def __exit__(self, *exception):
        self._depth -= 1
        if self._depth == 0:
            self._owner = 0
        self.lock.release()


RUN_LOCK = _RunLock()


def max_threads() -> int:
    """The size of Numba's thread pool: NUMBA_NUM_THREADS or the number of cores."""
    return int(numba.config.NUMBA_NUM_THREADS)


def check_threads(threads: Any) -> int | None:
    """A number of threads as a plain int, or None.

    Raises:
        InputError: what is no whole number; fewer than one, or more than Numba has.
    """
    if threads is None:
        return None
    whole = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if not whole or not 1 <= threads <= max_threads():
        raise InputError(
            f"threads must be a whole number from 1 to {max_threads()} here (NUMBA_NUM_THREADS, or the number of "
            f"cores), or None; got {threads!r}"
        )
    return int(threads)


def _pool_is_started():
    try:
        numba.threading_layer()
    except ValueError:
        return False
    return True


def default_threads() -> int:
    """How many threads kernels run on if nothing is said: what Numba is set to, but no more than there are CPUs.

    CPUs that this process may use: its affinity, the quota of its container.
    """
    asked = numba.get_num_threads() if _pool_is_started() and not _forked["pool"] else max_threads()
    return int(min(asked, cpus.available()))


def current() -> int:
    """How many threads kernels run on now: as `thread_count` says, or by default; one where there is no pool."""
    count = getattr(_own, "count", None) or default_threads()
    if count == 1 or not _forked["pool"]:
        return count
    if not _forked["told"]:
        _forked["told"] = True
        warnings.warn(
            "this process was forked from one that had run kernels on several threads, which are not here: kernels run "
            f"on 1 thread, not {count}, with the same results. Use a model first after the fork, or start processes "
            "with 'spawn' or 'forkserver', or say threads=1",
            RuntimeWarning,
            stacklevel=2,
        )
    return 1


@contextlib.contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Run this thread's kernels on `threads` threads (None: as before), and restore the setting afterwards."""
    before = getattr(_own, "count", None)
    if threads is not None:
        _own.count = threads
    try:
        yield
    finally:
        _own.count = before


@contextlib.contextmanager
def pool(threads):
    """Numba's pool, started if it is not, and set to so many threads meanwhile.

    Raises:
        InputError: there is no such pool, by NUMBA_THREADING_LAYER.
    """
    try:
        before = numba.get_num_threads()
    except ValueError as error:
        raise InputError(
            f"Numba cannot start its threads, with NUMBA_THREADING_LAYER {numba.config.THREADING_LAYER!r}: "
            f"{' '.join(str(error).split())} Unset that variable (and NUMBA_THREADING_LAYER_PRIORITY), or say threads=1"
        ) from None
    if before == threads:
        yield
        return
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


class computing:
    """A context for a forward pass: this thread's turn, on so many threads (None: as before), and Ctrl-C waits.

    Raises:
        InputError: as `RUN_LOCK`.
    """

    def __init__(self, threads: int | None) -> None:
        self._contexts = (deferred(), RUN_LOCK, thread_count(threads))

    def __enter__(self) -> None:
        with contextlib.ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context)
            self._stack = stack.pop_all()

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)


# -- forks ------------------------------------------------------------------------------------------------------------

_LOCKS = [
    lock
    for lock in (
        RUN_LOCK.lock,
        getattr(global_compiler_lock, "_lock", None),  # Numba's
        getattr(getattr(ffi.lib, "_lock", None), "_lock", None),  # LLVM's
    )
    if lock is not None
]
_held: list[Any] = []


def _before_fork():
    """Wait for other threads to end what they do."""
    RUN_LOCK.gate.acquire()
    end = time.monotonic() + FORK_SECONDS
    for lock in [] if _forked["torn"] else _LOCKS:
        if not lock.acquire(timeout=max(0.0, end - time.monotonic())):
            return
        _held.append(lock)


def _after_fork_in_parent():
    while _held:
        _held.pop().release()
    RUN_LOCK.gate.release()


def _after_fork_in_child():
    _forked["torn"] |= len(_held) < len(_LOCKS)
    _forked["pool"] |= _pool_is_started()
    while _held:
        _held.pop().release()
    RUN_LOCK.gate.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
