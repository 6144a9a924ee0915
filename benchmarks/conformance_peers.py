"""The implementations of `benchmarks/conformance.py`: a folder -> a function of pixels and ids -> names and arrays."""

import ast
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from npsiglip import SigLIP
from npsiglip.convert.formats import convert
from npsiglip.formats.told import OPEN_CLIP

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported; and OpenVINO's is not there
sys.modules["openvino_telemetry"] = None

SEED = 7
RESULTS = ["logits_per_image", "image_embeds", "text_embeds"]


def inputs_of(model, number, seed=SEED):
    """Pixels [1, 3, S, S] and ids [2, L], so many times: random pixels and random pictures by turns."""
    rng, size, text = np.random.default_rng(seed), model.config.image.image_size, model.config.text
    for i in range(number):
        if i % 2:
            pixels = rng.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
        else:
            pixels = model.processor([Image.fromarray(rng.integers(0, 256, (70, 50, 3), np.uint8))])
        yield np.asarray(pixels, np.float32), rng.integers(0, text.vocab_size, (2, text.seq_len))


def with_hooks(model, run):
    """What every module of a torch model gives, and what `run` gives, as float32."""
    import torch

    def traced(pixels, ids):
        taps = {}

        def hook(name):
            def keep(module, args, output):
                first = output[0] if isinstance(output, (tuple, list)) else output
                first = getattr(first, "last_hidden_state", first)
                if isinstance(first, torch.Tensor):
                    taps[name] = first.detach().float().numpy()

            return keep

        hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
        try:
            with torch.no_grad():
                taps |= {name: value.float().numpy() for name, value in run(pixels, ids).items()}
        finally:
            for handle in hooks:
                handle.remove()
        return taps

    return traced


def of_npsiglip(dtype):
    """npsiglip's own kernels."""

    def load(folder):
        return SigLIP.from_pretrained(folder, dtype=dtype).trace

    return load


def siglip_of_transformers(model, dtype):
    """What a SiglipModel shows of itself."""
    import torch

    kind = getattr(torch, dtype)

    def run(pixels, ids):
        out = model(pixel_values=torch.tensor(pixels).to(kind), input_ids=torch.tensor(ids))
        return {name: getattr(out, name) for name in RESULTS}

    return with_hooks(model, run)


def of_transformers(attention, dtype):
    """transformers' SiglipModel."""

    def load(folder):
        import torch
        from transformers import SiglipModel

        kind = getattr(torch, dtype)
        model = SiglipModel.from_pretrained(folder, attn_implementation=attention, dtype=kind).eval()
        return siglip_of_transformers(model, dtype)

    return load


def of_sentences(dtype):
    """sentence-transformers, on the model that it loads and as it loads it."""

    def load(folder):
        import torch
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
        return siglip_of_transformers(model[0].auto_model.eval(), dtype)

    return load


def of_open_clip(dtype):
    """open_clip's model, with timm's image tower, from the folder that npsiglip converts."""

    def load(folder):
        import open_clip
        import torch

        kind = getattr(torch, dtype)
        with tempfile.TemporaryDirectory() as place:
            convert(Path(folder), Path(place) / "model", to=OPEN_CLIP)
            model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{place}/model")
        model = model.eval().to(kind)

        def run(pixels, ids):
            image, text = torch.tensor(pixels).to(kind), torch.tensor(ids)
            image, text, scale, bias = model(image, text)
            return {"image_features": image, "text_features": text, "logits": scale * image @ text.T + bias}

        return with_hooks(model, run)

    return load


def exported(folder, place):
    """transformers' model as an ONNX file, and the module that each of its values is the result of."""
    import onnx
    import torch
    from transformers import SiglipModel

    model = SiglipModel.from_pretrained(folder, attn_implementation="eager").eval()

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values, input_ids):
            out = self.model(pixel_values=pixel_values, input_ids=input_ids)
            return tuple(getattr(out, name) for name in RESULTS)

    vision, text = model.config.vision_config, model.config.text_config
    pixels = torch.zeros(1, 3, vision.image_size, vision.image_size)
    ids = torch.zeros(2, text.max_position_embeddings, dtype=torch.int64)
    file = Path(place) / "model.onnx"
    torch.onnx.export(
        Both().eval(), (pixels, ids), str(file), input_names=["pixel_values", "input_ids"], output_names=RESULTS,
        dynamo=True, opset_version=20, verbose=False,
    )  # fmt: skip
    module_of = {}
    for node in onnx.load(file, load_external_data=False).graph.node:
        scopes = {item.key: item.value for item in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
        for value in node.output:
            if value and scopes:
                module_of[value] = ast.literal_eval(scopes)[-2]
    return file, module_of | {name: name for name in RESULTS}


def of_onnxruntime(dtype):
    """ONNX Runtime on the export, in float32 or in its dynamic int8."""

    def load(folder):
        import onnx
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as place:
            file, module_of = exported(folder, place)
            if dtype == "int8":
                bare = onnx.load(file)
                del bare.graph.value_info[:]
                onnx.save(bare, file)
                quantize_dynamic(
                    file, file.with_name("int8.onnx"), op_types_to_quantize=["MatMul", "Gemm"],
                    weight_type=QuantType.QInt8,
                )  # fmt: skip
                file = file.with_name("int8.onnx")
            graph = onnx.load(file)
            there = {value for node in graph.graph.node for value in node.output}
            known = {value.name for value in graph.graph.output}
            graph.graph.output.extend(
                onnx.ValueInfoProto(name=name) for name in module_of if name in there and name not in known
            )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(
                graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )

        def traced(pixels, ids):
            names = [output.name for output in session.get_outputs()]
            values = session.run(None, {"pixel_values": pixels, "input_ids": ids})
            return {module_of[name]: value for name, value in zip(names, values, strict=True)}

        return traced

    return load


def in_8_bits(model, folder):
    """NNCF's post-training quantisation, calibrated on ten inputs that are not those of the measurement."""
    import nncf

    inputs = inputs_of(SigLIP.from_pretrained(folder), 10, seed=SEED + 1)
    calibration = nncf.Dataset([{"pixel_values": pixels, "input_ids": ids} for pixels, ids in inputs])
    return nncf.quantize(model, calibration, model_type=nncf.ModelType.TRANSFORMER)


def of_openvino(dtype):
    """OpenVINO on the export, in 8 bits by NNCF."""

    def load(folder):
        import openvino

        with tempfile.TemporaryDirectory() as place:
            file, module_of = exported(folder, place)
            core = openvino.Core()
            model = core.read_model(file)
            if dtype == "int8":
                model = in_8_bits(model, folder)
            there = {name for op in model.get_ops() for port in op.outputs() for name in port.get_names()}
            known = {name for port in model.outputs for name in port.get_names()}
            model.add_outputs([name for name in module_of if name in there - known])
            hint = "bf16" if dtype == "bfloat16" else "f32"
            compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 1})

        def traced(pixels, ids):
            result, taps = compiled({"pixel_values": pixels, "input_ids": ids}), {}
            for port in compiled.outputs:
                taps |= {name: np.array(result[port], np.float32) for name in port.get_names() if name in module_of}
            return {module_of[name]: taps[name] for name in module_of if name in taps}

        return traced

    return load


FLOATS = ("float32", "bfloat16", "float16")
# name -> (packages that it needs, whose names its tensors have, its types, what loads it)
IMPLEMENTATIONS = {
    "npsiglip": (("numpy", "numba"), "npsiglip", ("float32", "bfloat16", "int8"), of_npsiglip),
    "transformers, eager": (("transformers", "torch"), "hf", FLOATS, lambda dtype: of_transformers("eager", dtype)),
    "transformers, SDPA": (("transformers", "torch"), "hf", FLOATS, lambda dtype: of_transformers("sdpa", dtype)),
    "open_clip and timm": (("open_clip_torch", "timm", "torch"), "timm", FLOATS, of_open_clip),
    "ONNX Runtime": (("onnxruntime", "transformers", "torch"), "hf", ("float32", "int8"), of_onnxruntime),
    "OpenVINO": (("openvino", "transformers", "torch"), "hf", ("float32", "bfloat16"), of_openvino),
    "OpenVINO, NNCF": (("nncf", "openvino", "transformers", "torch"), "hf", ("int8",), of_openvino),
    "sentence-transformers": (("sentence-transformers", "transformers", "torch"), "hf", FLOATS, of_sentences),
}


def installed(packages):
    """Whether all of them are here."""
    modules = {"open_clip_torch": "open_clip", "sentence-transformers": "sentence_transformers"}
    return all(find_spec(modules.get(package, package)) for package in packages)
