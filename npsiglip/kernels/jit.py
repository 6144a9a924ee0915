"""How every kernel is compiled: options, fastmath policy, cache folder, threads. The one place where that is decided.

Fastmath is off: it would let LLVM reorder sums, and then the same input would not give the same bits on every CPU.
Where a fused multiply-add is wanted, it is written (`npsiglip.kernels.vector.fma`).

The cache. Numba keys machine code by the file of the kernel, so that a change in another file that was inlined goes
unnoticed. Here the cache folder is named after a hash of all kernel sources and of the versions that compile them:
a stale cache cannot be hit, because it lies in another folder. It is `npsiglip/kernels-<hash>` in NUMBA_CACHE_DIR, or
else in the user's cache folder (XDG_CACHE_HOME, ~/.cache).

Threads. Kernels run on Numba's thread pool. A whole forward pass holds `RUN_LOCK`: one of the pool's possible
backends (workqueue) is not safe for concurrent callers, and two passes at once would only share the same cores.
"""

import contextlib
import hashlib
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.extending import intrinsic

RUN_LOCK = threading.RLock()


def _source_hash() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _choose_cache_folder() -> Path | None:
    """The folder for machine code, made if need be; None, with one warning, where none can be written."""
    user = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(user) / "npsiglip" / f"kernels-{_source_hash()}"
    try:
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        warnings.warn(
            f"the kernel cache {folder} cannot be written ({getattr(error, 'strerror', None) or error}): kernels are "
            "compiled anew in every process; set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


CACHE_FOLDER = _choose_cache_folder()


@contextlib.contextmanager
def _numba_cache_folder() -> Iterator[None]:
    """Numba takes the folder from a global setting when a function is decorated: lend it ours, only meanwhile."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(CACHE_FOLDER)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def parallel_kernel(function: Callable[..., None]) -> Any:
    """A kernel: called from Python, cached, without the GIL, its `prange` loops spread over the threads."""
    with _numba_cache_folder():
        return numba.njit(function, nogil=True, error_model="numpy", cache=CACHE_FOLDER is not None, parallel=True)


def inline(function: Callable[..., Any]) -> Any:
    """A function that is only called from kernels and compiled with them."""
    return numba.njit(function, nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


def callback(function: Callable[..., None]) -> Any:
    """A function that kernels call by its `address`: compiled and cached on its own, not with each of them."""
    with _numba_cache_folder():
        return numba.njit(
            function, nogil=True, error_model="numpy", cache=CACHE_FOLDER is not None, no_cpython_wrapper=True
        )


def address(function: Any, signature: Any) -> int:
    """Where the machine code of a `callback` lies, with C's calling convention; compiled or read from the cache."""
    function.compile(signature)
    compiled = function.overloads[signature.args]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))


@intrinsic
def call_address(typingctx, address, *args):
    """Call a `callback` at its address; the arguments have the types it was compiled for, nothing is checked."""

    def codegen(context, builder, signature, values):
        operands = cgutils.unpack_tuple(builder, values[1])
        function = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), operands)
        return context.get_dummy_value()

    return types.void(address, types.StarArgTuple(args)), codegen


@contextlib.contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Run kernels on `threads` threads (None: as Numba is set), and restore the setting afterwards."""
    if threads is None:
        yield
        return
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def max_threads() -> int:
    """The size of Numba's thread pool: NUMBA_NUM_THREADS or the number of cores."""
    return int(numba.config.NUMBA_NUM_THREADS)


class _CompileListener(event.Listener):
    """Report the outermost function only: what it calls is compiled within it."""

    def __init__(self, callback: Callable[[str], None]) -> None:
        self.callback = callback
        self.depth = 0

    def on_start(self, event: event.Event) -> None:
        if self.depth == 0:
            self.callback(event.data["dispatcher"].__name__)
        self.depth += 1

    def on_end(self, event: event.Event) -> None:
        self.depth -= 1


@contextlib.contextmanager
def on_compile(callback: Callable[[str], None]) -> Iterator[None]:
    """Call `callback(name)` whenever a kernel starts to be compiled; not when it comes from the cache."""
    with event.install_listener("numba:compile", _CompileListener(callback)):
        yield
