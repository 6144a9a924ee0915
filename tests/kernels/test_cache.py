"""The kernel cache: what is damaged is compiled anew and replaced, what can be read is read, and nothing is trusted."""

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest

from npsiglip.kernels import cache, jit
from tests.helpers.golden_data import ROOT

X = np.arange(5, dtype=np.float32)
TYPES = numba.types.void(numba.float32[::1], numba.float32[::1])


def double(x, out):
    for i in range(x.size):
        out[i] = 2 * x[i]


def triple(x, out):
    for i in range(x.size):
        out[i] = 3 * x[i]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache; nothing has been warned of yet."""
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "cache" / "kernels")
    monkeypatch.setattr(cache, "_told", set())
    return tmp_path / "cache" / "kernels"


def use(function=double):
    """Run a kernel as a new process would: its result, whether it was compiled, and what was warned."""
    compiled, out = [], np.empty_like(X)
    kernel = jit.callback(function)
    with warnings.catch_warnings(record=True) as told, jit.on_compile(compiled.append):
        warnings.simplefilter("always")
        assert jit.address(kernel, TYPES)
    kernel.overloads[TYPES.args].entry_point  # noqa: B018  it is there
    numba.njit(lambda x, out: kernel(x, out))(X, out)
    cache._told.clear()
    return out.tolist(), len(compiled), [str(warning.message) for warning in told]


DOUBLE = (2 * X).tolist()


def only(folder):
    (path,) = folder.iterdir()
    return path


def test_second_process_reads_what_the_first_has_compiled(folder):
    assert use() == (DOUBLE, 1, [])
    assert use() == (DOUBLE, 0, [])


def flip(place):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(place * len(data)) if isinstance(place, float) else place] ^= 0x10
        path.write_bytes(data)

    return damage


def cut(part):
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


def write(content):
    return lambda path: path.write_bytes(content)


def long_pickle(path):
    path.write_bytes(cache.HEAD + bytes(cache.DIGEST_SIZE) + b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.")


DAMAGES = {
    "empty": write(b""),
    "of one byte": write(b"n"),
    "of zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "of another program": write(b"\x7fELF" + bytes(3000)),
    "of noise": lambda path: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)),
    "with a head only": write(cache.HEAD),
    "with a digest only": write(cache.HEAD + bytes(cache.DIGEST_SIZE)),
    "with a pickle that is too long": long_pickle,
    "longer by a byte": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "twice": lambda path: path.write_bytes(2 * path.read_bytes()),
    **{f"cut to {part:.0%}": cut(part) for part in (0.01, 0.1, 0.5, 0.9, 0.999)},
    **{f"flipped at {place}": flip(place) for place in (0, 20, 60, 0.1, 0.3, 0.5, 0.7, 0.9, -1)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_file_is_compiled_anew_and_replaced(folder, damage):
    use()
    path = only(folder)
    damage(path)
    result, compiled, told = use()
    assert (result, compiled) == (DOUBLE, 1)
    (text,) = told
    assert text.startswith("the kernel cache is damaged")
    assert str(path) in text
    assert use() == (DOUBLE, 0, [])
    assert [only(folder)] == [path]


def test_twenty_damages():
    assert len(DAMAGES) >= 20


def test_many_damaged_files_are_one_warning(folder):
    use()
    use(triple)
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning) as told:
        for function in (double, triple):
            jit.address(jit.callback(function), TYPES)
    assert len(told) == 1


def test_a_file_of_another_kernel_is_not_taken(folder):
    use()
    first = only(folder)
    use(triple)
    (second,) = set(folder.iterdir()) - {first}
    shutil.copy(second, first)
    result, compiled, told = use()
    assert (result, compiled, len(told)) == (DOUBLE, 1, 1)


def test_a_folder_in_the_place_of_a_file(folder):
    use()
    path = only(folder)
    path.unlink()
    path.mkdir()
    result, compiled, told = use()
    assert (result, compiled) == (DOUBLE, 1)
    assert [text.partition(",")[0].partition(" /")[0] for text in told] == [
        "the kernel cache cannot be read",
        "the kernel cache",
    ]
    assert list(folder.iterdir()) == [path]  # and no temporary file


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_full_disk_leaves_nothing_behind(folder, size):
    """A limit on the size of files stands in for the disk: writing fails in the middle."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        result, compiled, told = use()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (result, compiled) == (DOUBLE, 1)
    (text,) = told
    assert "cannot be written (File too large)" in text
    assert "set NUMBA_CACHE_DIR" in text
    assert list(folder.iterdir()) == []
    assert use()[1:] == (1, [])
    assert use()[1:] == (0, [])


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_that_is_really_full(folder):
    folder.parent.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", folder.parent], check=False).returncode:
        pytest.skip("may not mount")
    try:
        result, compiled, told = use()
        assert (result, compiled) == (DOUBLE, 1)
        assert "No space left on device" in told[0]
        assert not [path for path in folder.parent.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", folder.parent], check=True)


DROP = """
import ctypes, os, sys
if os.geteuid() == 0:  # root may write everything, by CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: drop them
    for capability in (1, 2):
        assert ctypes.CDLL(None).prctl(24, capability) == 0  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""


def as_user(code, **env):
    """stdout and stderr of Python without the rights of root."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **env}
    command = [sys.executable, "-c", DROP, textwrap.dedent(code)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr


RUN = """
    import numpy as np
    from npsiglip.kernels import jit, similarity
    compiled, x = [], np.full((2, 4), 0.5, np.float32)
    with jit.on_compile(compiled.append), jit.thread_count(1):
        similarity.l2_normalize(x, x)
        if {more}:
            similarity.logits(x, x, 0.0, 0.0, np.empty((2, 2), np.float32))
    print(*compiled)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="drops rights as Linux has them")
def test_a_warm_cache_that_is_read_only_is_read(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert as_user(RUN.format(more=False), **environment) == ("l2_normalize", "")
    for path in [*(tmp_path / "cache").rglob("*"), tmp_path / "cache"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert as_user(RUN.format(more=False), **environment) == ("", "")
    compiled, errors = as_user(RUN.format(more=True), **environment)
    assert compiled == "logits"
    assert errors.count("RuntimeWarning") == 1
    assert "cannot be written (Permission denied)" in errors


@pytest.mark.skipif(sys.platform != "linux", reason="drops rights as Linux has them")
def test_a_cache_that_may_not_be_read_is_compiled_anew(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    as_user(RUN.format(more=False), **environment)
    for path in (tmp_path / "cache").rglob("*.kernel"):
        path.chmod(0)
    compiled, errors = as_user(RUN.format(more=False), **environment)
    assert compiled == "l2_normalize"
    assert errors.count("RuntimeWarning") == 1
    assert "cannot be read" in errors
    assert as_user(RUN.format(more=False), **environment) == ("", "")  # it was replaced


def test_others_can_read_what_is_written(folder):
    before = os.umask(0o022)
    try:
        use()
    finally:
        os.umask(before)
    assert only(folder).stat().st_mode & 0o777 == 0o644


def test_times_of_files_do_not_matter(folder, monkeypatch):
    """They change when an image is built from files, or unpacked."""
    use()
    os.utime(only(folder), (0, 0))
    os.utime(__file__)
    assert use() == (DOUBLE, 0, [])


@pytest.mark.parametrize("name", ["OPT", "BOUNDSCHECK"])
def test_settings_that_change_the_code_are_kept_apart(folder, monkeypatch, name):
    use()
    monkeypatch.setattr(numba.config, name, 1)
    assert use()[1] == 1
    assert len(list(folder.iterdir())) == 2


def test_one_thread_and_several_are_kept_apart(folder):
    first, second = (cache.cache_of(double, options) for options in ([], ["parallel"]))
    codegen = numba.core.registry.cpu_target.target_context.codegen()
    assert first.path(TYPES, codegen)[0] != second.path(TYPES, codegen)[0]


def _compile(folder, barrier):
    cache.FOLDER = Path(folder)
    barrier.wait()
    warnings.simplefilter("error")
    result = use()
    assert result[0] == DOUBLE, result


def test_processes_that_compile_at_the_same_time(folder):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_compile, args=(str(folder), barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert use() == (DOUBLE, 0, [])
    only(folder)  # no temporary file


# -- where it is ------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No setting, and a home."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_cache_is_in_the_users_cache_folder_by_default(environment, tmp_path):
    assert cache._choose_folder().parent == tmp_path / ".cache" / "npsiglip"
    environment.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache._choose_folder().parent == tmp_path / "x" / "npsiglip"
    environment.setenv("NUMBA_CACHE_DIR", "~/y")
    assert cache._choose_folder().parent == tmp_path / "y" / "npsiglip"


def test_a_relative_folder_stays_where_it_is(environment, tmp_path):
    environment.chdir(tmp_path)
    environment.setenv("NUMBA_CACHE_DIR", "here")
    assert cache._choose_folder().parent == tmp_path / "here" / "npsiglip"


def test_user_without_a_home_folder(environment, folder):
    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    environment.setattr(Path, "expanduser", no_home)
    assert cache._choose_folder() is None
    environment.setattr(cache, "FOLDER", None)
    result, compiled, told = use()
    assert (result, compiled, len(told)) == (DOUBLE, 1, 1)
    assert "there is no home folder" in told[0]
    assert not cache.is_writable()
    assert cache.entries() == []


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_file_in_the_place_of_the_folder(tmp_path, folder, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "file" / "x" if place == "below a file" else tmp_path / "file")
    result, compiled, told = use()
    assert (result, compiled, len(told)) == (DOUBLE, 1, 1)
    assert "cannot be written" in told[0]
    assert not cache.is_writable()


def test_is_writable(folder):
    assert cache.is_writable()  # it can be made
    use()
    assert cache.is_writable()
    assert cache.failed() is False
