"""The kernel cache, threads and compile events; each in a process of its own, since they are decided at import."""

import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from golden_data import ROOT

from npsiglip.kernels import jit

RUN_A_KERNEL = """
    import numpy as np
    from npsiglip.kernels.jit import on_compile
    from npsiglip.kernels.layer_norm import layer_norm
    x = np.ones((2, 3), np.float32)
    compiled = []
    with on_compile(compiled.append):
        layer_norm(x, x[0], x[0], 1e-6, np.empty_like(x))
    print(compiled)
"""


def run(code, package_root=ROOT, **env):
    """stdout and stderr of a Python process with the package of `package_root`."""
    env = {**os.environ, "PYTHONPATH": str(package_root), "PYTHONDONTWRITEBYTECODE": "1", **env}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        cwd=package_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip(), result.stderr


def cached(folder):
    return sorted(path.relative_to(folder).parts[1] for path in Path(folder).rglob("*.nbc"))


def test_second_process_compiles_nothing(tmp_path):
    assert run(RUN_A_KERNEL, NUMBA_CACHE_DIR=str(tmp_path)) == ("['layer_norm']", "")
    assert run(RUN_A_KERNEL, NUMBA_CACHE_DIR=str(tmp_path)) == ("[]", "")


def test_changed_source_of_any_kernel_file_is_compiled_anew(tmp_path):
    """vector.py is inlined in layer_norm.py, which Numba's own cache would not notice."""
    package = tmp_path / "copy" / "npsiglip"
    for path in (ROOT / "npsiglip").rglob("*.py"):
        target = package / path.relative_to(ROOT / "npsiglip")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    cache = str(tmp_path / "cache")
    assert run(RUN_A_KERNEL, package.parent, NUMBA_CACHE_DIR=cache)[0] == "['layer_norm']"
    assert run(RUN_A_KERNEL, package.parent, NUMBA_CACHE_DIR=cache)[0] == "[]"
    with (package / "kernels" / "vector.py").open("a") as file:
        file.write("\n# changed\n")
    assert run(RUN_A_KERNEL, package.parent, NUMBA_CACHE_DIR=cache)[0] == "['layer_norm']"
    assert len(list((tmp_path / "cache" / "npsiglip").iterdir())) == 2


def test_cache_is_in_the_users_cache_folder_by_default(tmp_path):
    code = "from npsiglip.kernels.jit import CACHE_FOLDER; print(CACHE_FOLDER)"
    environment = {"NUMBA_CACHE_DIR": "", "HOME": str(tmp_path)}
    assert run(code, XDG_CACHE_HOME="", **environment)[0].startswith(str(tmp_path / ".cache" / "npsiglip"))
    assert run(code, XDG_CACHE_HOME=str(tmp_path / "x"), **environment)[0].startswith(str(tmp_path / "x" / "npsiglip"))


def test_cache_that_cannot_be_written_is_one_warning_and_no_failure(tmp_path):
    file = tmp_path / "file"
    file.touch()
    output, errors = run(RUN_A_KERNEL, NUMBA_CACHE_DIR=str(file))
    assert output == "['layer_norm']"
    assert errors.count("RuntimeWarning") == 1
    assert "cannot be written" in errors
    assert "set NUMBA_CACHE_DIR" in errors


def test_user_without_a_home_folder(tmp_path):
    code = """
        import pathlib
        def no_home(path):
            raise RuntimeError("Could not determine home directory.")
        pathlib.Path.expanduser = no_home
        from npsiglip.kernels.jit import CACHE_FOLDER
        print(CACHE_FOLDER)
    """
    output, errors = run(code, NUMBA_CACHE_DIR="", XDG_CACHE_HOME="")
    assert output == "None"
    assert "Could not determine home directory" in errors


def test_other_users_of_numba_keep_their_settings(tmp_path):
    code = """
        import numba
        before = numba.config.CACHE_DIR, numba.get_num_threads()
        from npsiglip.kernels import layer_norm
        print((numba.config.CACHE_DIR, numba.get_num_threads()) == before)
    """
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path))[0] == "True"


def test_thread_count_is_restored():
    import numba

    before = numba.get_num_threads()
    with pytest.raises(KeyError), jit.thread_count(1):
        assert numba.get_num_threads() == 1
        raise KeyError
    assert numba.get_num_threads() == before
    with jit.thread_count(None):
        assert numba.get_num_threads() == before


def test_numba_num_threads_is_respected(tmp_path):
    code = "from npsiglip.kernels.jit import max_threads; print(max_threads())"
    assert run(code, NUMBA_NUM_THREADS="1", NUMBA_CACHE_DIR=str(tmp_path))[0] == "1"


EMBED = """
    import hashlib
    import numpy as np
    from npsiglip import SigLIP, sigmoid_loss
    from npsiglip.kernels.jit import on_compile
    compiled = []
    listening = on_compile(compiled.append)
    listening.__enter__()
    model = SigLIP.from_pretrained("golden/tiny")
    x, y = model.encode_image(np.full((3, 3, 38, 38), 0.25, np.float32)), model.encode_text(["a", "b c", ""])
    loss = sigmoid_loss(x, y, 2.0, -5.0, chunk=2)
    print(hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in (x, y, *loss))).hexdigest(), len(compiled))
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names features of x86")
@pytest.mark.parametrize("features", ["+avx2,+fma", "+sse2"])
def test_same_bits_on_lesser_cpus(tmp_path, features):
    """Half the vector and a smaller tile, and no fused multiply-add in hardware at all; all of it cached."""
    lesser = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    here, first, second = (run(EMBED, **environment)[0].split() for environment in ({}, lesser, lesser))
    assert here[0] == first[0] == second[0]
    assert int(first[1]) > 10
    assert second[1] == "0"


@pytest.mark.parametrize(("features", "rows"), [("+avx512f,+avx2,+fma", 8), ("+avx2,+fma", 6), ("+sse2", 2)])
def test_tile_follows_the_cpu_that_is_compiled_for(tmp_path, features, rows):
    code = "from npsiglip.kernels import tile; print(tile.ROWS_F32)"
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert run(code, **environment)[0] == str(rows)
