"""How every kernel is compiled: options, fastmath policy. The one place where that is decided.

Fastmath is off: it would let LLVM reorder sums, and then the same input would not give the same bits on every CPU.
Where a fused multiply-add is wanted, it is written (`npsiglip.kernels.vector.fma`).

Where machine code is kept: `npsiglip.kernels.cache`. On what threads it runs: `npsiglip.kernels.threads`. While it is
made, Ctrl-C waits (`npsiglip.interrupts`).
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils, event
from numba.extending import intrinsic

from npsiglip.interrupts import check, deferred
from npsiglip.kernels.cache import cache_of
from npsiglip.kernels.threads import RUN_LOCK, check_threads, computing, current, max_threads, pool, thread_count

__all__ = [
    "RUN_LOCK",
    "address",
    "call_address",
    "callback",
    "check_threads",
    "compiling_both",
    "computing",
    "current",
    "inline",
    "max_threads",
    "on_compile",
    "parallel_kernel",
    "short_kernel",
    "thread_count",
]

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _cached(function: Callable[..., None], **options: Any) -> Any:
    dispatcher = numba.njit(function, **OPTIONS, **options)
    dispatcher._cache = cache_of(function, sorted(options))
    return dispatcher


class Kernel:
    """A kernel that is called from Python, compiled twice, each when it is needed: for several threads, and for one.

    On one thread, `prange` is a loop, and no pool is needed, which a forked process may not have. Its rounds depend on
    each other in neither, and floating-point operations keep their order: the bits are the same.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function, self.__name__, self.__doc__ = function, function.__name__, function.__doc__

    @functools.cached_property
    def _serial(self) -> Any:
        return _cached(self.function)

    @functools.cached_property
    def _parallel(self) -> Any:
        return _cached(self.function, parallel=True)

    def __call__(self, *args: Any) -> None:
        """Run it, on the threads that `thread_count` says."""
        threads = current()
        with deferred():  # it may have to be compiled
            if _both:
                self._compile(args)
            if threads == 1:
                self._serial(*args)
            else:
                with pool(threads):
                    self._parallel(*args)
            check()

    def _compile(self, args: tuple[Any, ...]) -> None:
        kinds = tuple(map(self._serial.typeof_pyval, args))
        self._serial.compile(kinds)
        check()
        with pool(max_threads()):
            self._parallel.compile(kinds)


_both: list[bool] = []


@contextlib.contextmanager
def compiling_both() -> Iterator[None]:
    """Compile every kernel that is called both for one thread and for several, whichever it runs on."""
    _both.append(True)
    try:
        yield
    finally:
        _both.pop()


def parallel_kernel(function: Callable[..., None]) -> Kernel:
    """A kernel: called from Python, cached, without the GIL, its `prange` loops spread over the threads."""
    return Kernel(function)


class _ShortKernel(Kernel):
    """A kernel that runs on one thread wherever it is called: compiled once."""

    @functools.cached_property
    def _parallel(self) -> Any:
        return self._serial


def short_kernel(function: Callable[..., None]) -> Kernel:
    """A kernel whose work is shorter than waking threads up: on one thread, compiled in half of the time."""
    return _ShortKernel(function)


def inline(function: Callable[..., Any]) -> Any:
    """A function that is only called from kernels and compiled with them."""
    return numba.njit(function, **OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def callback(function: Callable[..., None]) -> Any:
    """A function that kernels call by its `address`: compiled and cached on its own, not with each of them."""
    return _cached(function, no_cpython_wrapper=True)


def address(function: Any, signature: Any) -> int:
    """Where the machine code of a `callback` lies, with C's calling convention; compiled or read from the cache."""
    with deferred():
        function.compile(signature)
        compiled = function.overloads[signature.args]
        found = int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))
        check()
    return found


@intrinsic
def call_address(typingctx, address, *args):
    """Call a `callback` at its address; the arguments have the types it was compiled for, nothing is checked."""

    def codegen(context, builder, signature, values):
        operands = cgutils.unpack_tuple(builder, values[1])
        function = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
        builder.call(builder.inttoptr(values[0], function.as_pointer()), operands)
        return context.get_dummy_value()

    return types.void(address, types.StarArgTuple(args)), codegen


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
