"""A pack of ONNX's test data, run by two other implementations of its operators: ONNX Runtime, and onnx's reference.

Level 2: a data set of a single operation is one node of a graph, or two, with the pack's weights. Inputs are read from
the data set's own files, as ONNX's test runners read them, and results are written as the pack's are.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from npsiglip.verify.files import read_traces
from npsiglip.verify.packs import WEIGHTS, Pack
from npsiglip.verify.packs_export import export, tiny_model
from npsiglip.verify.packs_score import score

OPSET = 20  # the first that has Gelu


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs") / "pack"
    export(tiny_model(), folder, "onnx-pb", "tiny")
    return Pack(folder)


def nodes(check, pack, gelu):
    """The operation as ONNX has it, from `x` and `y` to `out`, and the weights that it reads; None: it has no such."""
    weight, bias = ([*check.weights, "", ""])[:2]
    if check.operation == "linear":
        made = [
            helper.make_node("MatMul", ["x", weight], ["product"]),
            helper.make_node("Add", ["product", bias], ["out"]),
        ]
    elif check.operation == "layer_norm":
        tower = pack.config.image if check.tap.startswith("image") else pack.config.text
        made = [helper.make_node("LayerNormalization", ["x", weight, bias], ["out"], epsilon=tower.layer_norm_eps)]
    elif check.operation == "gelu":
        made = [helper.make_node("Gelu", ["x"], ["out"], approximate=gelu)]
    elif check.operation == "residual":
        made = [helper.make_node("Add", ["x", "y"], ["out"])]
    elif check.operation == "unit":
        made = [helper.make_node("LpNormalization", ["x"], ["out"], axis=-1, p=2)]
    elif check.operation == "pair_probs":
        made = [helper.make_node("Sigmoid", ["x"], ["out"])]
    elif check.operation == "mean":
        made = [helper.make_node("ReduceMean", ["x"], ["out"], keepdims=0)]
    else:
        return None
    return made


def model_of(check, pack, inputs, gelu):
    made = nodes(check, pack, gelu)
    if made is None:
        return None
    names = dict(zip(("x", "y"), inputs, strict=False))
    graph = helper.make_graph(
        made, "operation",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in names.items()],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, pack.tensors[check.tap].shape)],
        [numpy_helper.from_array(np.asarray(pack.tensors[WEIGHTS + name], np.float32), name) for name in check.weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model, names


def by_onnx_runtime(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def by_reference(model, inputs):
    return ReferenceEvaluator(model).run(None, inputs)[0]


def candidate(pack, run, place, gelu="tanh"):
    """Results of all operations that ONNX has, in .pb files."""
    place.mkdir()
    for data in pack.about["data_sets"]:
        if data["level"] != 2:
            continue
        folder = pack.folder / data["folder"]
        inputs = [numpy_helper.to_array(onnx.load_tensor(folder / f"input_{k}.pb")) for k in range(len(data["inputs"]))]
        check = next(check for check in pack.at(2) if check.tap == data["what"])
        if (made := model_of(check, pack, inputs, gelu)) is not None:
            result = np.asarray(run(*made), np.float32)
            (place / f"{check.name}.pb").write_bytes(numpy_helper.from_array(result, check.name).SerializeToString())
    return read_traces(place)


@pytest.mark.parametrize("run", [by_onnx_runtime, by_reference])
def test_single_operations_conform(run, pack, tmp_path):
    found = candidate(pack, run, tmp_path / "results")
    report = score(pack, found)
    assert report.verdict == "conforms", report.sentence()
    right, wrong, _ = report.counts(2)
    assert (right, wrong) == (len(found), 0)
    assert right >= 30


@pytest.mark.parametrize("run", [by_onnx_runtime, by_reference])
def test_another_gelu_does_not(run, pack, tmp_path):
    report = score(pack, candidate(pack, run, tmp_path / "results", gelu="none"))
    assert report.verdict == "diverges"
    assert report.first(2).check.operation == "gelu"
    assert report.first(2).mistake == "erf_gelu"
