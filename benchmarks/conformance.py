"""What other implementations compute of the same weights: writes docs/conformance.md from measurements.

Each implementation that is installed is given the same weights and inputs, shows its intermediate results in the ways
of docs/verify.md, and is judged by `npsiglip.verify`. Rows are kept in `benchmarks/conformance.json`, so that a run
where others are installed adds to them:

    python benchmarks/conformance.py                          all that is installed, 20 inputs of the built-in model
    python benchmarks/conformance.py --model b16 --inputs 2   random weights of B/16-224 with outliers
    python benchmarks/conformance.py --only 'open_clip*'      some
    python benchmarks/conformance.py --write                  the page alone, from the rows that are there

Inputs are turns of random pixels and of random pictures, with two texts of random ids each.
"""

import argparse
import ast
import datetime
import gc
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np
from PIL import Image

from golden.random_folder import write as write_random
from npsiglip import SigLIP
from npsiglip.convert.formats import convert
from npsiglip.formats.told import OPEN_CLIP
from npsiglip.hub.resolve import model_folder
from npsiglip.variants import variant
from npsiglip.verify import Golden, compare
from npsiglip.verify.diagnose import LIMITS

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before it is imported; and OpenVINO's is not there
sys.modules["openvino_telemetry"] = None

ROWS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
MODELS = {"builtin": "the built-in model", "b16": "B/16-224, random weights, residual streams with outliers of 100"}
OUTLIER, SEED = 100.0, 7
RESULTS = ["logits_per_image", "image_embeds", "text_embeds"]


# -- implementations: a folder -> a function of pixels and ids -> names and arrays ------------------------------------


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


# -- judging ----------------------------------------------------------------------------------------------------------


def inputs_of(model, number, seed=SEED):
    """Pixels [1, 3, S, S] and ids [2, L], so many times: random pixels and random pictures by turns."""
    rng, size, text = np.random.default_rng(seed), model.config.image.image_size, model.config.text
    for i in range(number):
        if i % 2:
            pixels = rng.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
        else:
            pixels = model.processor([Image.fromarray(rng.integers(0, 256, (70, 50, 3), np.uint8))])
        yield np.asarray(pixels, np.float32), rng.integers(0, text.vocab_size, (2, text.seq_len))


def measured(name, dtype, folder, kind, number):
    """A row: what was said of an implementation, and the largest error of each operation in units of its floor."""
    packages, names, _, make = IMPLEMENTATIONS[name]
    model, start = SigLIP.from_pretrained(folder), time.perf_counter()
    traced = make(dtype)(folder)
    verdicts, worst, said, compared = {}, {}, [], 0
    for i, (pixels, ids) in enumerate(inputs_of(model, number)):
        report = compare(traced(pixels, ids), Golden(model, pixels, ids), model=model, names=names, dtype=dtype)
        verdicts[report.verdict] = verdicts.get(report.verdict, 0) + 1
        compared = report.coverage.compared
        if report.verdict != "conforms":
            said.append(f"input {i}: {report.sentence()}")
        for tap in report.taps:
            ratio = tap.added / tap.floor
            if ratio > worst.get(tap.operation, (0.0, ""))[0]:
                worst[tap.operation] = (round(ratio, 3), tap.tap)
    return {
        "model": kind,
        "implementation": name,
        "dtype": dtype,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "inputs": number,
        "compared": compared,
        "verdicts": verdicts,
        "worst": worst,
        "said": said[:5],
        "seconds": round(time.perf_counter() - start),
        "date": datetime.date.today().isoformat(),
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def cells(*values):
    """A line of a table."""
    return "| " + " | ".join(str(value) for value in values) + " |"


def page(rows):
    """docs/conformance.md."""
    lines = [
        "# What other implementations compute of the same weights",
        "",
        "Written by `python benchmarks/conformance.py` from what was measured, not by hand; rows are in",
        "[`benchmarks/conformance.json`](../benchmarks/conformance.json). Each implementation gets the same weights",
        "and inputs, shows its intermediate results, and [`npsiglip verify`](verify.md) judges each operation on the",
        "implementation's own input. A number is the largest added error of an operation over all inputs, in units of",
        "its noise floor; up to the limit it is rounding: "
        + ", ".join(f"{limit:g} in {dtype}" for dtype, limit in LIMITS.items())
        + ".",
        "",
    ]
    lines += [
        "Where not all inputs conform, what was said stands below the tables. open_clip and timm compute GELU in its",
        "exact form in this image tower, where the weights' own configuration has tanh.",
        "",
    ]
    for kind, title in MODELS.items():
        chosen = [row for row in rows if row["model"] == kind]
        if not chosen:
            continue
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        lines += [cells("implementation", "type", "inputs", "taps", "conform", "most of its floor", "at", "limit")]
        lines += [cells(*["---"] * 8)]
        for row in chosen:
            ratio, tap = max(row["worst"].values(), key=lambda pair: pair[0])
            conform = f"{row['verdicts'].get('conforms', 0)} of {row['inputs']}"
            lines.append(
                cells(row["implementation"], row["dtype"], row["inputs"], row["compared"], conform, f"{ratio:.2f}",
                      f"`{tap}`", f"{LIMITS[row['dtype']]:g}")
            )  # fmt: skip
        kinds = sorted({kind for row in chosen for kind in row["worst"]})
        lines += ["", "By operation:", "", cells("implementation", "type", *(f"`{kind}`" for kind in kinds))]
        lines += [cells(*["---"] * (len(kinds) + 2))]
        for row in chosen:
            ratios = [f"{row['worst'][kind][0]:.2f}" if kind in row["worst"] else "" for kind in kinds]
            lines.append(cells(row["implementation"], row["dtype"], *ratios))
        lines.append("")
        for row in chosen:
            lines += [f"{row['implementation']}, {row['dtype']}: {sentence}\n" for sentence in row["said"][:1]]
    lines += ["## Versions", "", cells("implementation", "versions", "measured"), cells("---", "---", "---")]
    for line in dict.fromkeys(
        cells(
            row["implementation"],
            ", ".join(f"{package} {version}" for package, version in row["versions"].items()),
            row["date"],
        )
        for row in rows
    ):
        lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="builtin")
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--only", default="*", metavar="GLOB", help="such as 'transformers, eager float32' or '*int8'")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    options = parser.parse_args()
    rows = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else []
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder("builtin")
        if options.model == "b16" and not options.write:
            folder = Path(place)
            write_random(folder, variant("siglip-base-patch16-224"), outlier=OUTLIER)
        for name, (packages, _, dtypes, _) in IMPLEMENTATIONS.items():
            for dtype in dtypes:
                if options.write or not installed(packages) or not fnmatchcase(f"{name} {dtype}", options.only):
                    continue
                try:
                    row = measured(name, dtype, str(folder), options.model, options.inputs)
                except Exception as error:
                    print(f"{name}, {dtype}: {error}", file=sys.stderr, flush=True)
                    continue
                print(json.dumps(row), flush=True)
                key = [row[part] for part in ("model", "implementation", "dtype")]
                rows = [old for old in rows if [old[part] for part in ("model", "implementation", "dtype")] != key]
                rows = sorted([*rows, row], key=lambda row: (list(MODELS).index(row["model"]), order_of(row)))
                ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                gc.collect()
    PAGE.write_text(page(rows), encoding="utf-8")


def order_of(row):
    """Where a row stands among its model's."""
    return list(IMPLEMENTATIONS).index(row["implementation"]), list(LIMITS).index(row["dtype"])


if __name__ == "__main__":
    main()
