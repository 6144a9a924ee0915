"""Caching and threads of the whole engine; each in a process of its own, since they are decided at import."""

import os
import platform
import subprocess
import sys
import textwrap

import llvmlite.binding
import numpy as np
import pytest

from npsiglip.element_types import DTYPES
from npsiglip.kernels import jit
from tests.helpers.golden_data import ROOT

RUN_A_KERNEL = """
    import numpy as np
    from npsiglip.kernels.jit import on_compile
    from npsiglip.kernels.layer_norm import layer_norm
    x = np.ones((2, 3), np.float32)
    compiled = []
    with on_compile(compiled.append):
        layer_norm(x, x[0], x[0], 1e-6, np.empty_like(x))
    print("compiled" if compiled else "from the cache")
"""


def start(code, *arguments, package_root=ROOT, **env):
    """A Python process with the package of `package_root`."""
    env = {**os.environ, "PYTHONPATH": str(package_root), "PYTHONDONTWRITEBYTECODE": "1", **env}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=env,
        cwd=package_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(code, *arguments, **options):
    """stdout and stderr of a Python process, which must end well."""
    process = start(code, *arguments, **options)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.strip(), errors


def test_second_process_compiles_nothing(tmp_path):
    assert run(RUN_A_KERNEL, NUMBA_CACHE_DIR=str(tmp_path)) == ("compiled", "")
    assert run(RUN_A_KERNEL, NUMBA_CACHE_DIR=str(tmp_path)) == ("from the cache", "")


@pytest.mark.slow
def test_changed_source_of_any_kernel_file_is_compiled_anew(tmp_path):
    """vector.py is inlined in layer_norm.py, which Numba's own cache would not notice."""
    package = tmp_path / "copy" / "npsiglip"
    for path in (ROOT / "npsiglip").rglob("*.py"):
        target = package / path.relative_to(ROOT / "npsiglip")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    cache = str(tmp_path / "cache")
    assert run(RUN_A_KERNEL, package_root=package.parent, NUMBA_CACHE_DIR=cache)[0] == "compiled"
    assert run(RUN_A_KERNEL, package_root=package.parent, NUMBA_CACHE_DIR=cache)[0] == "from the cache"
    with (package / "kernels" / "vector.py").open("a") as file:
        file.write("\n# changed\n")
    assert run(RUN_A_KERNEL, package_root=package.parent, NUMBA_CACHE_DIR=cache)[0] == "compiled"
    with (package / "element_types.py").open("a") as file:  # whose numbers kernels are compiled with
        file.write("\n# changed\n")
    assert run(RUN_A_KERNEL, package_root=package.parent, NUMBA_CACHE_DIR=cache)[0] == "compiled"
    assert len(list((tmp_path / "cache" / "npsiglip").iterdir())) == 3


def test_other_users_of_numba_keep_their_settings(tmp_path):
    code = """
        import numba
        import numpy as np
        before = numba.config.CACHE_DIR, numba.get_num_threads()
        from npsiglip.kernels import jit, similarity
        x = np.ones((2, 3), np.float32)
        with jit.thread_count(2):
            similarity.l2_normalize(x, x)
        print((numba.config.CACHE_DIR, numba.get_num_threads()) == before == (numba.config.CACHE_DIR, 3))
    """
    assert run(code, NUMBA_NUM_THREADS="3")[0] == "True"


def test_thread_count_is_restored():
    before = jit.current()
    with pytest.raises(KeyError), jit.thread_count(1):
        assert jit.current() == 1
        with jit.thread_count(None):
            assert jit.current() == 1
        raise KeyError
    assert jit.current() == before


def test_numba_num_threads_is_respected(tmp_path):
    code = "from npsiglip.kernels.jit import max_threads; print(max_threads())"
    assert run(code, NUMBA_NUM_THREADS="1", NUMBA_CACHE_DIR=str(tmp_path))[0] == "1"


EMBED = """
    import hashlib, sys
    import numpy as np
    from npsiglip import SigLIP, sigmoid_loss
    from npsiglip.kernels.jit import on_compile
    compiled = []
    listening = on_compile(compiled.append)
    listening.__enter__()
    model = SigLIP.from_pretrained("golden/tiny", dtype=sys.argv[1])
    for _ in range(2):
        x, y = model.encode_image(np.full((3, 3, 38, 38), 0.25, np.float32)), model.encode_text(["a", "b c", ""])
    loss = sigmoid_loss(x, y, 2.0, -5.0, chunk=2)
    print(hashlib.sha256(b"".join(np.asarray(part).tobytes() for part in (x, y, *loss))).hexdigest())
    print(compiled)
"""


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_engine_is_cached(dtype):
    run(EMBED, dtype)
    assert run(EMBED, dtype)[0].splitlines()[1] == "[]"


# -- lesser CPUs ----------------------------------------------------------------------------------------------------

WIDE = "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx2,+fma"
X86 = {
    "AVX-512 of the first generation": (WIDE, (8, 3)),  # neither AVX512-BF16 nor AVX512-VNNI
    "AVX2": ("+avx2,+fma", (6, 1)),
    "SSE2": ("+sse2", (2, 1)),  # no fused multiply-add in hardware at all
}
ON_X86 = platform.machine() in ("x86_64", "AMD64")
HOST = llvmlite.binding.get_host_cpu_features()

# Each result is a file of its own, and those that may fail come last.
RESULTS = """
    import sys
    from pathlib import Path
    sys.path.insert(0, ".")
    import numpy as np
    from tests.helpers.arrays import NO_MASK, NO_PROBS, NONE, normal, panels_of, read_only, stored, to_bits, whole_steps
    from npsiglip.kernels import attention, gemm, pack, quantize, steps

    def keep(name, *arrays):
        print(name, flush=True)
        np.save(Path(sys.argv[1]) / f"{name}.npy", np.frombuffer(b"".join(a.tobytes() for a in arrays), np.uint8))

    def linear(dtype, x, w, scales=gemm.NO_SCALES):
        out = np.empty((len(x), w.shape[1]), np.float32)
        x, panels, b = whole_steps(x, dtype), panels_of(w, dtype), normal(9, w.shape[1])
        gemm.linear(x, panels, dtype, scales, b, gemm.GELU_TANH, NONE, NONE, out)
        keep(f"linear in {dtype}", out)

    def attend(dtype, name):
        qkv, out = stored(2 * normal(0, 300, 96), dtype), np.empty((300, 32), np.float32)
        attention.attention(qkv, 150, 2, 0, NO_MASK, NO_PROBS, out)
        keep(f"attention in {name}", out)

    x, w = normal(0, 19, 333), normal(1, 333, 35)
    keep("tile", *np.array([steps.ROWS, steps.UNITS]))
    q, scale, zero = np.empty(x.shape, np.uint8), np.empty(19, np.float32), np.empty(19, np.int32)
    quantize.quantize_rows(x, q, scale, zero)
    q_w, scale_w, total = np.empty((35, 333), np.uint8), np.empty(35, np.float32), np.empty(35, np.int32)
    quantize.quantize_weights(read_only(np.ascontiguousarray(w.T)), q_w, scale_w, total)
    keep("quantisation", q, scale, zero, q_w, scale_w, total)
    linear("int8", q, q_w.T.view(np.int8), (scale, zero, scale_w, total))
    linear("bfloat16", to_bits(x), to_bits(w))
    if sys.argv[2] == "True":
        linear("float32", x, w)
        attend(np.float32, "float32")
        from npsiglip import SigLIP, sigmoid_loss
        model = SigLIP.from_pretrained("golden/tiny")
        images = model.encode_image(np.full((3, 3, 38, 38), 0.25, np.float32))
        texts = model.encode_text(["a", "b c", ""])
        keep("towers", images, texts)
        keep("loss", *map(np.asarray, sigmoid_loss(images, texts, 2.0, -5.0, chunk=2)))
    even = np.arange(1 << 10, dtype=np.uint32) << 17  # halves between two numbers of bfloat16, either of which is even
    halves = np.concatenate([even | 0x8000, even | 0x18000, even | 0x80008000]).view(np.float32)
    x = np.concatenate([x.ravel(), halves[np.abs(halves) >= 2.0**-126]])[None]
    bits = np.empty((1, x.size + x.size % 2), np.uint16)
    pack.to_bf16(x, bits)
    keep("rounding", bits)
    attend(np.uint16, "bfloat16")
"""
IN_FLOAT32 = ["linear in float32", "attention in float32", "towers", "loss"]
NAMES = ["quantisation", "linear in int8", "linear in bfloat16", *IN_FLOAT32, "rounding", "attention in bfloat16"]


def computed(cpu, name):
    """Whether the result is compared: those in float32 only where their kernels are others."""
    return name not in IN_FLOAT32 or X86[cpu][0] != WIDE


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Name of the CPU -> name of the result -> bytes; all CPUs at the same time."""
    folders, processes = {}, []
    for cpu, features in {"this CPU": None, **{cpu: features for cpu, (features, _) in X86.items()}}.items():
        if features and not all(HOST.get(feature[1:]) for feature in features.split(",")):
            continue
        folders[cpu] = tmp_path_factory.mktemp("cpu")
        environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features} if features else {}
        if features:
            environment["NUMBA_CACHE_DIR"] = str(folders[cpu])
        processes.append(start(RESULTS, str(folders[cpu]), str(features != WIDE), **environment))
    for process in processes:
        process.communicate()
    return {cpu: {path.stem: np.load(path) for path in folder.glob("*.npy")} for cpu, folder in folders.items()}


@pytest.mark.skipif(not ON_X86, reason="names features of x86")
@pytest.mark.parametrize(("cpu", "name"), [(cpu, name) for cpu in X86 for name in NAMES if computed(cpu, name)])
def test_same_bits_on_lesser_cpus(results, cpu, name):
    """Smaller vectors and tiles, and products that this CPU may have an instruction for, by other instructions.

    That of bfloat16 takes subnormal numbers for zero. None is near these.
    """
    if cpu not in results:
        pytest.skip("this CPU is a lesser one itself")
    np.testing.assert_array_equal(results[cpu][name], results["this CPU"][name])


@pytest.mark.skipif(not ON_X86, reason="names features of x86")
@pytest.mark.parametrize("cpu", X86)
def test_tile_follows_the_cpu_that_is_compiled_for(results, cpu):
    if cpu not in results:
        pytest.skip("this CPU is a lesser one itself")
    np.testing.assert_array_equal(results[cpu]["tile"].view(np.int64), X86[cpu][1])
