"""Libraries that not everybody has, imported when they are needed."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from npsiglip.errors import InputError
from npsiglip.interrupts import deferred


def library(module: str, extra: str, what: str = "this") -> Any:
    """A library that not everybody has.

    Args:
        module: what is imported, such as "pyarrow.parquet".
        extra: of this package, which installs it.
        what: needs it.

    Raises:
        InputError: it is not installed, or cannot be imported.
    """
    try:
        with deferred(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of the wrappers that FAISS is made with
            return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{what} needs {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'npsiglip[{extra}]'"
        ) from None
