"""Numba, imported, and the settings from outside that it reads: those that cannot be end in one error, not later.

Left out: which of its thread pools can be had; that shows when one is needed (`npsiglip.kernels.threads`).
"""

import os
import re
import sys
import warnings

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

_UNREADABLE = re.compile(
    r"Environment variable '(\w+)' is defined but its associated value '(.*?)' could not", re.DOTALL
)


def _check_environment():
    number = os.environ.get("NUMBA_NUM_THREADS")
    if number is not None and not (re.fullmatch(r"\s*\+?\d+\s*", number) and int(number) > 0):
        raise InputError(
            f"the environment variable NUMBA_NUM_THREADS must be a number of threads, at least 1; got {number!r}: "
            "unset it to use all cores"
        )


def _check_cpu():
    """LLVM ends the process at features that are not written as it wants them, and the CPU at those that it lacks."""
    import llvmlite.binding as llvm
    import numba

    asked = numba.config.CPU_FEATURES
    if not asked:
        return
    features = asked.split(",")
    if not all(re.fullmatch(r"[+-]\S+", feature) for feature in features):
        raise InputError(
            f"the environment variable NUMBA_CPU_FEATURES must be features such as '+avx2,+fma'; got {asked!r}: unset "
            "it"
        )
    host = llvm.get_host_cpu_features()
    lacking = [feature for feature in features if feature[0] == "+" and host.get(feature[1:]) is False]
    if lacking:
        raise InputError(
            f"the environment variable NUMBA_CPU_FEATURES asks for {','.join(lacking)}, which this CPU lacks: unset it"
        )


def load():
    """Import Numba; Ctrl-C waits for it, since what is half imported cannot be imported again.

    Raises:
        InputError: a setting that Numba cannot read, or that kernels cannot be compiled with.
    """
    _check_environment()
    if "numba" not in sys.modules:
        with deferred(), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", RuntimeWarning)
            import numba
        _judge(told)
    import numba

    if numba.config.DISABLE_JIT:
        raise InputError(
            "Numba is told to compile nothing (NUMBA_DISABLE_JIT, or numba.config.DISABLE_JIT), and kernels exist only "
            "compiled: unset it; npsiglip.reference runs without Numba"
        )
    _check_cpu()


def _judge(told):
    """Numba goes on with its own value for a setting that it cannot read, and prints a traceback."""
    for warning in told:
        unreadable = _UNREADABLE.match(str(warning.message))
        if unreadable:
            name, value = unreadable.groups()
            raise InputError(f"the environment variable {name} has a value that Numba cannot read, {value!r}: unset it")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
