"""Writes golden/adapters.safetensors: LoRA adapters of the tiny model as PEFT saves them, and what it computes so.

Needs peft, torch and transformers, and is run by itself (`python -m golden.make_adapters`), not by golden/make.py. For
each case there are the tensors of its adapter_model.safetensors below `<case>/adapter/`, its adapter_config.json in the
file's metadata, and below `<case>/` the pooled outputs `zimg` and `ztxt` of the golden inputs, in double precision and
with the adapter beside the model, not merged into it.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np
import peft
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import SiglipModel

from golden import manifest

HERE = Path(__file__).parent
SEED = 20210617
QV = ["q_proj", "v_proj"]
CASES = {
    "plain": {"target_modules": QV},
    "rslora": {"target_modules": QV, "use_rslora": True},
    "linear": {"target_modules": ["q_proj", "k_proj", "v_proj", "self_attn.out_proj", "fc1", "fc2", "text_model.head"]},
    "convolution": {"target_modules": ["patch_embedding"]},
    "tables": {"target_modules": ["token_embedding", "position_embedding"]},
    "biases": {"target_modules": QV, "bias": "all"},
    "bias of B": {"target_modules": QV, "lora_bias": True},
    "patterns": {
        "target_modules": QV,
        "rank_pattern": {"vision_model.encoder.layers.0.self_attn.q_proj": 1, "text_model.*v_proj": 5},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3, "^vision_model.*v_proj": 11},
    },
    "whole layers": {"target_modules": QV, "modules_to_save": ["text_model.head", "post_layernorm"]},
    "dora": {"target_modules": [*QV, "fc1"], "use_dora": True},
}


def main() -> None:
    """All cases, and the file's entry in manifest.json."""
    golden = load_file(HERE / "tiny" / "golden.safetensors")
    pixels = torch.from_numpy(golden["inputs.pixel_values"]).double()
    ids = torch.from_numpy(golden["inputs.input_ids"])
    arrays, metadata = {}, {"peft": peft.__version__}
    for number, (case, options) in enumerate(CASES.items()):
        torch.manual_seed(SEED)
        base = SiglipModel.from_pretrained(HERE / "tiny", dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(r=2, lora_alpha=3, **options)).eval()
        rng = np.random.default_rng([SEED, number])
        with torch.no_grad():
            for _, value in sorted(model.named_parameters()):
                if value.requires_grad:
                    value.add_(torch.from_numpy((0.2 * rng.standard_normal(value.shape)).astype(np.float32)))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            tensors = load_file(Path(folder) / "adapter_model.safetensors")
            config = json.loads((Path(folder) / "adapter_config.json").read_text())
        metadata[case] = json.dumps(config | {"base_model_name_or_path": "golden/tiny"})
        arrays |= {f"{case}/adapter/{key}": value for key, value in tensors.items()}
        inner = model.double().base_model.model
        with torch.no_grad():
            arrays[f"{case}/zimg"] = inner.get_image_features(pixel_values=pixels).pooler_output.numpy()
            arrays[f"{case}/ztxt"] = inner.get_text_features(input_ids=ids).pooler_output.numpy()
    path = HERE / "adapters.safetensors"
    save_file(arrays, path, metadata)
    manifest.replace(path.name, [path])


if __name__ == "__main__":
    main()
