"""Settings from outside: one error that names the setting, whatever it is; and no more threads than CPUs.

Covers kernels/cpus.py as well.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from npsiglip import InputError, SigLIP
from npsiglip.hub import resolve as hub
from npsiglip.kernels import cpus, settings, threads
from npsiglip.kernels.jit import current, max_threads, thread_count
from tests.helpers.golden_data import ROOT, TINY

COMMAND = ["-m", "npsiglip", "classify", "docs/images/example.png", "-l", "a", "--model", str(TINY)]


def run(*args, **env):
    env = {**os.environ, **env}
    return subprocess.run([sys.executable, *args], env=env, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("NUMBA_NUM_THREADS", "0", "at least 1; got '0'"),
        ("NUMBA_NUM_THREADS", "abc", "at least 1; got 'abc'"),
        ("NUMBA_DISABLE_JIT", "1", "unset it"),
        ("NUMBA_OPT", "abc", "NUMBA_OPT has a value that Numba cannot read, 'abc'"),
        ("NUMBA_THREADING_LAYER", "foo", "NUMBA_THREADING_LAYER 'foo'"),
        ("NUMBA_THREADING_LAYER_PRIORITY", "foo", "NUMBA_THREADING_LAYER_PRIORITY"),
        ("NUMBA_CPU_FEATURES", "avx2", "'avx2'"),
    ],
)
def test_a_setting_that_cannot_be_is_one_error(name, value, says):
    env = {"NUMBA_NUM_THREADS": "2"} if "LAYER" in name else {}
    result = run(*COMMAND, "--threads", "2" if env else "1", **{**env, name: value})
    assert result.returncode == 1
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Compiling")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert name in lines[0]
    assert says in lines[0]


def test_one_thread_needs_no_pool():
    assert run(*COMMAND, "--threads", "1", NUMBA_THREADING_LAYER="foo").returncode == 0


@pytest.mark.parametrize("value", ["0", "-1", "abc", "", "1.5", "1e3"])
def test_numba_num_threads(monkeypatch, value):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    with pytest.raises(InputError, match="NUMBA_NUM_THREADS"):
        settings._check_environment()


@pytest.mark.parametrize("value", ["1", " 3 ", "+2"])
def test_numba_num_threads_that_numba_reads(monkeypatch, value):
    monkeypatch.setenv("NUMBA_NUM_THREADS", value)
    settings._check_environment()


def test_features_that_this_cpu_lacks(monkeypatch):
    import llvmlite.binding
    import numba

    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: {"fast": False, "slow": True})
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+slow,-fast,+unknown")
    settings._check_cpu()
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+slow,+fast")
    with pytest.raises(InputError, match=r"asks for \+fast, which this CPU lacks"):
        settings._check_cpu()


@pytest.mark.parametrize("name", ["HF_ENDPOINT", "HF_HUB_DOWNLOAD_TIMEOUT"])
def test_what_huggingface_hub_cannot_read(name, tmp_path):
    env = {"HF_HUB_CACHE": str(tmp_path), name: "http://["}
    result = run("-m", "npsiglip", "models", "--fetch", "siglip-base-patch16-224", **env)
    assert result.returncode == 1
    assert result.stderr.startswith("error: huggingface_hub cannot read its settings")
    assert name in result.stderr
    assert "Traceback" not in result.stderr
    assert hub.BUILTIN == "builtin"


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["2", 2.0, True, False, 0, -1, np.True_, 10**6, [1], float("nan")])
def test_threads_that_cannot_be(count):
    with pytest.raises(InputError, match="threads must be a whole number from 1 to"):
        SigLIP.from_pretrained(TINY, threads=count)


def test_threads_of_numpy():
    model = SigLIP.from_pretrained(TINY, threads=np.int64(1))
    assert type(model.threads) is int


@pytest.mark.parametrize("model", [None, 3, b"builtin", ["builtin"], True])
def test_a_model_that_cannot_be(model):
    with pytest.raises(InputError, match="a model is a folder"):
        SigLIP.from_pretrained(model)


# -- CPUs -------------------------------------------------------------------------------------------------------------


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2, V1 = "0::/a/b\n", "12:cpuset:/x\n4:cpu,cpuacct:/a/b\n1:name=systemd:/y\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, np.inf),
        ({"proc/self/cgroup": V2}, np.inf),
        ({"proc/self/cgroup": "nonsense\n0\n"}, np.inf),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, np.inf),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "nonsense"}, np.inf),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/../../c\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us": "100000\n",
            },
            np.inf,
        ),
    ],
)
def test_quota(tmp_path, files, expected):
    assert cpus.quota(tree(tmp_path, files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.5, 2), (3, 3), (9, 4), (np.inf, 4)])
def test_available(monkeypatch, quota, expected):
    monkeypatch.setattr(cpus, "_own_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert cpus.available() == expected


def test_no_more_threads_than_cpus_by_default(monkeypatch):
    monkeypatch.setattr(threads, "max_threads", lambda: 64)
    monkeypatch.setattr(threads, "_pool_is_started", lambda: False)
    monkeypatch.setattr(cpus, "available", lambda: 3)
    assert current() == 3
    with thread_count(5):
        assert current() == 5  # who asks for more gets more
    monkeypatch.setattr(threads, "max_threads", lambda: 2)
    assert current() == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_is_respected():
    """Also one that was narrowed after Numba had counted."""
    code = (
        "import os\nfrom npsiglip.kernels.jit import current, max_threads\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(max_threads(), current())"
    )
    assert run("-c", code, NUMBA_NUM_THREADS="4").stdout == "4 1\n"
    assert max_threads() >= 1
