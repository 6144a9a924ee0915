"""Which peers there are for a dtype, which are left out, and what their engines import."""

import ast
import warnings

import pytest

from npsiglip.bench.peers import PEERS, choose_peers, peer_engine
from npsiglip.bench.process import WORKER
from npsiglip.errors import InputError

# -- workers ------------------------------------------------------------------------------------------------------


def test_peers_do_not_load_kernels():
    """A peer's engine imports nothing of ours but the worker, which imports nothing of ours."""

    def imported(path):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        return {n for n in names | {n.module for n in nodes if isinstance(n, ast.ImportFrom)} if "npsiglip" in n}

    engines = WORKER.parent / "engines"
    assert imported(WORKER) == imported(engines / "__init__.py") == imported(WORKER.parent / "__init__.py") == set()
    for peer in PEERS.values():
        assert imported(engines / f"{peer.module}.py") == {"npsiglip.bench.worker"}
    allowed = {"npsiglip.bench.worker", "npsiglip.bench.engines.peer_transformers"}
    assert imported(engines / "export_onnx.py") == allowed


# -- peers, and what they need ------------------------------------------------------------------------------------


def names_of(engines):
    return [engine.name for engine in engines]


def test_peers_by_name():
    engines, left_out = choose_peers(["openvino", "transformers", "openvino"], "float32", "/a/python")
    assert (names_of(engines), left_out) == (["openvino", "transformers"], {})
    assert not any(engine.optional for engine in engines)
    assert {engine.command[0] for engine in engines} == {"/a/python"} == {engines[0].exporter.command[0]}
    assert choose_peers([], "int8") == ([], {})


@pytest.mark.parametrize(
    ("dtype", "there"),
    [
        ("float32", ["transformers", "onnxruntime", "openvino"]),
        ("bfloat16", ["transformers", "openvino"]),
        ("int8", ["onnxruntime"]),
    ],
)
def test_all_peers_are_those_that_have_the_dtype(dtype, there):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engines, left_out = choose_peers(["all"], dtype)
    assert names_of(engines) == there
    assert all(engine.optional for engine in engines)
    assert set(left_out) == set(PEERS) - set(there)
    assert [str(warning.message) for warning in caught] == [
        f"{name} is left out: {reason}" for name, reason in left_out.items()
    ]
    assert all(reason.endswith(f"not in {dtype}") for reason in left_out.values())


def test_a_name_beside_all_is_not_optional():
    engines, _ = choose_peers(["all", "onnxruntime"], "float32")
    assert {engine.name: engine.optional for engine in engines} == {
        "transformers": True,
        "onnxruntime": False,
        "openvino": True,
    }


def test_peers_that_are_refused():
    expected = "'caffe' is not known; expected one of: transformers, onnxruntime, openvino, all"
    with pytest.raises(InputError, match=expected):
        choose_peers(["all", "caffe"], "float32")
    with pytest.raises(InputError, match=expected):
        peer_engine("caffe")
    with pytest.raises(
        InputError, match="onnxruntime cannot be timed: it computes in float32 or int8, not in bfloat16"
    ):
        choose_peers(["onnxruntime"], "bfloat16")
    with pytest.warns(RuntimeWarning), pytest.raises(InputError, match=r"openvino .* float32 or bfloat16, not in int8"):
        choose_peers(["all", "openvino"], "int8")
