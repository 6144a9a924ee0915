"""Machine code of kernels, kept in files between processes: one file for a kernel and the types it is compiled for.

Numba's own cache keys machine code by the file of the kernel, so that a change in another file that was inlined goes
unnoticed; it trusts what it reads; and it needs a folder that can be written, at one path. Here

- the folder is `npsiglip/kernels-<hash>` in NUMBA_CACHE_DIR, or else in the user's cache folder (XDG_CACHE_HOME,
  ~/.cache). The hash is of all kernel sources, of the table of element types, and of the versions that compile them: a
  stale cache cannot be hit, because it lies in another folder. Neither times nor paths of files count: a folder can be
  copied into an image.
- a file's name tells everything that machine code depends on besides, the CPU above all, as a hash: machines of several
  kinds can share a folder, and processes that compile at the same time write whole files in each other's place.
- a file begins with a hash of what follows. What is damaged is compiled anew and replaced, with one warning.
- where nothing can be written, what is there is read all the same.

The files are pickles: who can write them can run code, as with Numba's own.
"""

import contextlib
import hashlib
import os
import pickle
import sys
import sysconfig
import uuid
import warnings
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import NullCache, _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

HEAD = b"npsiglip kernel\n"
SUFFIX = ".kernel"
DIGEST_SIZE = hashlib.sha256().digest_size
SOURCES = Path(__file__).parent
TABLE = SOURCES.parent / "element_types.py"  # its numbers are compiled in
SETTINGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "ENABLE_AVX")  # Numba's


def _source_hash() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {np.__version__}".encode())
    for path in (*sorted(SOURCES.glob("*.py")), TABLE):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _choose_folder() -> Path | None:
    """Where machine code is kept, whether it exists or not; None for a user without a home folder."""
    user = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(user).expanduser().absolute() / "npsiglip" / f"kernels-{_source_hash()}"
    except (OSError, RuntimeError):
        return None


FOLDER = _choose_folder()
_told: set[str] = set()


def _warn_once(kind: str, text: str) -> None:
    if kind not in _told:
        _told.add(kind)
        warnings.warn(text, RuntimeWarning, stacklevel=2)


def _cannot_write(reason: str) -> None:
    _warn_once(
        "write",
        f"the kernel cache {FOLDER or 'in the home folder'} cannot be written ({reason}): kernels are compiled anew in "
        "every process; set NUMBA_CACHE_DIR to a folder that can be written",
    )


def failed() -> bool:
    """Whether this process has compiled what it could not keep."""
    return "write" in _told


def is_writable() -> bool:
    """Whether machine code can be kept, as far as can be told without trying."""
    folder = FOLDER
    while folder is not None and not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder is not None and folder.is_dir() and os.access(folder, os.W_OK)


def _write(path: Path, parts: tuple[bytes, ...]) -> None:
    """Write a file that others may be reading or writing; complete, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


class _Damaged(Exception):
    """What a file holds is not what was written."""


class KernelCache(_Cache):
    """The files of one kernel, in the interface that Numba's dispatchers use."""

    def __init__(self, function, options):
        code = function.__code__
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        source = Path(code.co_filename)
        own = source.parent == SOURCES  # whose hash is the folder's
        self._about = [
            sys.implementation.cache_tag,
            sysconfig.get_platform(),
            function.__module__,
            function.__qualname__,
            code.co_firstlineno,
            options,
            "" if own else hashlib.sha256(source.read_bytes()).hexdigest(),
        ]

    cache_path = property(lambda self: str(FOLDER))

    def path(self, signature, codegen):
        """The file of a kernel for these types, and the key that it is for."""
        key = [*self._about, str(signature), codegen.magic_tuple(), [getattr(config, name, None) for name in SETTINGS]]
        text = repr(key).encode()
        return FOLDER / f"{self._name}-{hashlib.sha256(text).hexdigest()[:16]}{SUFFIX}", text

    def load_overload(self, signature, target_context):
        """What was compiled before; None if it was not, or cannot be read."""
        target_context.refresh()
        path, key = self.path(signature, target_context.codegen())
        try:
            return self._load(path, key, target_context)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except _Damaged:
            _warn_once(
                "damaged",
                f"the kernel cache is damaged, {path} is not as it was written: it is compiled anew and replaced, as "
                "any other damaged file of this folder is",
            )
        except OSError as error:
            _warn_once("read", f"the kernel cache cannot be read, {path} ({error.strerror}): it is compiled anew")
        return None

    def _load(self, path, key, target_context):
        data = memoryview(path.read_bytes())
        head, digest, payload = data[: len(HEAD)], data[len(HEAD) :][:DIGEST_SIZE], data[len(HEAD) + DIGEST_SIZE :]
        if head != HEAD or digest != _digest(key, payload):
            raise _Damaged
        try:
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception as error:  # whatever unpickling raises: written by what calls itself the same version
            raise _Damaged from error

    def save_overload(self, signature, result):
        """Keep what was compiled, where that is possible."""
        if any(not part.can_cache for part in result.lifted) or result.library.has_dynamic_globals:
            return
        save(*self.path(signature, result.codegen), dumps(result._reduce()))

    def enable(self):
        """Nothing to do."""

    def disable(self):
        """Nothing to do."""

    def flush(self):
        """Nothing to do."""


def save(path, key, payload):
    """Keep machine code for a key, or warn that it cannot be kept."""
    try:
        _write(path, (HEAD, _digest(key, payload), payload))
    except OSError as error:
        _cannot_write(error.strerror or str(error))


def _digest(key, payload):
    digest = hashlib.sha256(key)
    digest.update(payload)
    return digest.digest()


class _NoFolder(NullCache):
    def save_overload(self, signature, result):
        _cannot_write("there is no home folder")


def cache_of(function, options):
    """The cache for a kernel that is compiled with these options beside those of all."""
    if FOLDER is None:
        return _NoFolder()
    return KernelCache(function, options) if Path(function.__code__.co_filename).is_file() else NullCache()


def entries() -> list[Path]:
    """The files of the cache, whatever they were compiled for."""
    return sorted(FOLDER.glob(f"*{SUFFIX}")) if FOLDER else []
