"""Writes golden/builtin.safetensors: what Hugging Face computes in double precision with npsiglip's built-in model.

Needs torch and transformers 5.x: `python golden/make_builtin.py`; npsiglip/data/builtin and the example pictures in
docs/images must be there. A port of SigLIP loads that folder, encodes `pixel_values` and `input_ids`, and compares.

Left out: what is within the blocks, which golden/tiny has.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoProcessor

HERE = Path(__file__).parent
ROOT = HERE.parent
MODEL = ROOT / "npsiglip" / "data" / "builtin"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]

from golden import manifest  # noqa: E402 (the folder has to be on the path)
from tests.parity.hf_taps import hf_model, hf_taps  # noqa: E402 (the folder has to be on the path)

KEPT = (
    *("image.embed", "image.final_ln", "image.pooled", "zimg"),
    *("text.embed", "text.final_ln", "text.pooled", "ztxt"),
    *("logits", "probs"),
)


def main() -> None:
    """Inputs by Hugging Face's own processor, and outputs of its model, as safetensors."""
    torch.set_num_threads(1)  # one order of summation
    examples = json.loads((HERE / "examples.json").read_text(encoding="utf-8"))
    pictures = [Image.open(ROOT / "docs" / "images" / file) for file in examples]
    inputs = AutoProcessor.from_pretrained(MODEL)(
        text=list(examples.values()), images=pictures, padding="max_length", truncation=True, return_tensors="np"
    )
    pixels, ids = inputs["pixel_values"], inputs["input_ids"]
    taps = hf_taps(hf_model(MODEL, torch.float64), pixels, ids)
    arrays = {"inputs.pixel_values": pixels, "inputs.input_ids": ids}
    arrays |= {f"taps.{name}": taps[name] for name in KEPT}
    save_file({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}, HERE / "builtin.safetensors")


if __name__ == "__main__":
    main()
    manifest.replace("builtin.safetensors", [HERE / "builtin.safetensors"])
    manifest.replace("examples.json", [HERE / "examples.json"])
