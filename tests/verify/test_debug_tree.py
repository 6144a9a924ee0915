"""Debug trees of transformers: a small one as it writes them; damaged ones, and those that hold prints only."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from npsiglip import InputError
from npsiglip.verify import compare, read_traces
from npsiglip.verify.debug_tree import FULL, SUMMARY
from tests.helpers import planted
from tests.helpers.golden_data import TINY


def tensor(folder, name, x, use_repr=False):
    if not use_repr:
        save_file({"data": np.ascontiguousarray(x, np.float32)}, folder / f"{name}.safetensors")
    value = ["tensor([[1.0000e+00, ...]])"] if use_repr else f"./{name}.safetensors"
    return {"shape": f"torch.Size({list(x.shape)})", "dtype": "torch.float32", "value": value, "mean": "tensor(0.)"}


def tree(folder, taps, use_repr=False):
    """Some calls of the image tower."""

    def call(path, inputs=None, outputs=None, children=()):
        path = f"SiglipModel.{path}"
        node = {"module_path": path, "inputs": {"args": ["None"]}, "outputs": None}
        if inputs is not None:
            node["inputs"] = {"args": [tensor(folder, f"{path}_inputs_args_0", taps[inputs], use_repr)], "kwargs": {}}
        if outputs is not None:
            node["outputs"] = tensor(folder, f"{path}_outputs", taps[outputs], use_repr)
        return node | ({"children": list(children)} if children else {})

    layer, b = "vision_model.encoder.layers", "image.blocks"
    layers = [
        call(
            f"{layer}.0", "image.embed", None,
            [
                call(f"{layer}.0.layer_norm1", "image.embed", f"{b}.00.ln1"),
                call(f"{layer}.0.self_attn.out_proj", f"{b}.00.attn.mix", f"{b}.00.attn.out"),
                call(f"{layer}.0.layer_norm2", f"{b}.00.+attn", f"{b}.00.ln2"),
                call(f"{layer}.0.mlp.activation_fn", f"{b}.00.mlp.fc1", f"{b}.00.mlp.gelu"),
            ],
        ),
        call(f"{layer}.1", f"{b}.00.+mlp", None, [call(f"{layer}.1.layer_norm1", None, f"{b}.01.ln1")]),
        call(f"{layer}.2", f"{b}.01.+mlp", None, [call(f"{layer}.2.layer_norm1", None, f"{b}.02.ln1")]),
    ]  # fmt: skip
    parts = [
        call("vision_model.encoder", "image.embed", None, layers),
        call("vision_model.post_layernorm", f"{b}.02.+mlp", "image.final_ln"),
    ]
    root = {"module_path": "SiglipModel", "inputs": {}, "children": [call("vision_model", None, None, parts)]}
    file = folder / f"SiglipModel{FULL}"
    file.write_text(json.dumps(root), encoding="utf-8")
    return file


def test_it_conforms_by_its_folder_and_by_its_file(golden, tmp_path):
    file = tree(tmp_path, planted.candidate(TINY))
    summary = file.with_name(f"SiglipModel{SUMMARY}")
    summary.write_text("{}", encoding="utf-8")
    for path in (tmp_path, file, summary):
        report = compare(path, golden)
        assert (report.verdict, report.coverage.unknown) == ("conforms", ()), report.sentence()
        compared = {tap.tap for tap in report.taps}
        assert {f"image.blocks.00.{tap}" for tap in ("+attn", "attn.mix", "+mlp", "ln2")} < compared
        assert {"image.embed", "image.blocks.01.+mlp", "image.blocks.02.+mlp", "image.final_ln"} < compared


def test_a_mistake_in_it_is_found(golden, tmp_path):
    report = compare(tree(tmp_path, planted.candidate(TINY, "erf_gelu")), golden)
    assert (report.first.tap, report.diagnosis[0].name) == ("image.blocks.00.mlp.gelu", "erf_gelu")


def test_prints_of_tensors_tell_nothing(tmp_path):
    tree(tmp_path, planted.candidate(TINY), use_repr=True)
    with pytest.raises(InputError, match=r"prints of a few numbers of its tensors: write it again .*use_repr=False"):
        read_traces(tmp_path)


def test_what_is_no_tree(tmp_path):
    file = tree(tmp_path, planted.candidate(TINY))
    text = file.read_text(encoding="utf-8")
    for damaged, message in (
        (text[:-20], "is no debug tree of transformers"),
        ("[1, 2]", "is no debug tree of transformers"),
        ("{}", "holds no tensors"),
    ):
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_traces(file)
    file.write_text(text.replace("./SiglipModel.vision_model.post", "../other/post"), encoding="utf-8")
    found = read_traces(file)
    with pytest.raises(InputError, match="is no safetensors file beside the tree"):
        found["vision_model.post_layernorm"]
    file.write_text(text, encoding="utf-8")
    for path in tmp_path.glob("*post_layernorm*.safetensors"):
        save_file({}, path)
    with pytest.raises(InputError, match="holds 0 tensors instead of one"):
        read_traces(file)["vision_model.post_layernorm"]
    (tmp_path / f"Other{FULL}").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="holds 2 debug trees"):
        read_traces(tmp_path)
