"""Writes golden/family.npz: NaFlex, interpolated positions, masks and classifiers, as Hugging Face computes them.

A small Siglip2Model and a small SiglipModel in double precision with random weights, all of which are in the file, by
Hugging Face's names. Hugging Face interpolates NaFlex's positions in float32 on a CPU, whatever the model's dtype: here
its steps are done in double precision.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import Siglip2Config, Siglip2ForImageClassification, SiglipConfig, SiglipModel
from transformers import Siglip2Model as Naflex
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

HERE = Path(__file__).parent
SEED = 20250220
WIDTHS = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 28}
TEXT = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 18}
TEXT |= {"vocab_size": 23, "max_position_embeddings": 7, "projection_size": 20, "pad_token_id": 1}
GRIDS = ((4, 4), (2, 7), (1, 14), (5, 3), (2, 2))
LENGTH = 16


def in_double(table, shapes, max_length):
    """Hugging Face's `resize_positional_embeddings` without its cast to float32."""
    out = torch.empty(len(shapes), max_length, table.shape[-1], dtype=table.dtype)
    for row, (height, width) in zip(out, shapes.tolist(), strict=True):
        size = {"size": (height, width), "mode": "bilinear", "align_corners": False, "antialias": True}
        grid = F.interpolate(table.permute(2, 0, 1)[None], **size)[0].flatten(1).T
        row[:] = grid[0]
        row[: height * width] = grid
    return out


def randomize(model, rng):
    """Weights in which nothing is zero, one or flat; rounded to float32, in which they are stored."""
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            noise = rng.standard_normal(value.shape)
            if name == "logit_scale":
                noise = 0 * noise + 4.7
            elif name == "logit_bias":
                noise = 0 * noise - 12.9
            elif value.ndim > 1:
                noise *= 0.5 if "embedding.weight" in name else 1.5 / value[0].numel() ** 0.5
            else:
                noise = 0.1 * noise + ("norm" in name and name.endswith("weight"))
            value.copy_(torch.from_numpy(noise.astype(np.float32)))
    return model.double().eval()


def main() -> None:
    """All inputs, weights and outputs."""
    rng = np.random.default_rng(SEED)
    Siglip2VisionEmbeddings.resize_positional_embeddings = staticmethod(in_double)
    arrays = {}

    def keep(prefix, model):
        arrays.update(
            {f"{prefix}/{name}": value.numpy().astype(np.float32) for name, value in model.state_dict().items()}
        )

    shapes = np.array(GRIDS)
    mask = np.arange(LENGTH) < shapes.prod(axis=1)[:, None]
    patches = rng.uniform(-1, 1, (len(GRIDS), LENGTH, 27)).astype(np.float32) * mask[:, :, None]
    ids = rng.integers(0, TEXT["vocab_size"], (3, 7))
    text_mask = np.array([[1] * 7, [1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 0, 1]])
    given = {"pixel_values": torch.from_numpy(patches).double(), "pixel_attention_mask": torch.from_numpy(mask)}
    given["spatial_shapes"] = torch.from_numpy(shapes)
    arrays |= {"patches": patches, "mask": mask, "shapes": shapes, "ids": ids, "text_mask": text_mask}

    vision = WIDTHS | {"num_patches": 16, "patch_size": 3}
    with torch.no_grad():
        model = randomize(Naflex(Siglip2Config(vision_config=vision, text_config=TEXT)), rng)
        keep("naflex", model)
        out = model(**given, input_ids=torch.from_numpy(ids))
        arrays |= {"naflex.pooled": out.vision_model_output.pooler_output, "naflex.logits": out.logits_per_image}
        out = model.get_text_features(torch.from_numpy(ids), attention_mask=torch.from_numpy(text_mask))
        arrays["naflex.masked_text"] = out.pooler_output

        classes = {"id2label": {0: "cat", 1: "dog", 2: "owl"}}
        model = Siglip2ForImageClassification(Siglip2Config(vision_config=vision, text_config=TEXT, **classes))
        keep("classifier", randomize(model, rng))
        arrays["classifier.logits"] = model(**given).logits

        vision = WIDTHS | {"image_size": 12, "patch_size": 3}
        model = randomize(SiglipModel(SiglipConfig(vision_config=vision, text_config=TEXT)), rng)
        keep("fixed", model)
        for name, height, width in (("wide", 9, 31), ("large", 24, 24)):
            pixels = rng.uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
            out = model.get_image_features(torch.from_numpy(pixels).double(), interpolate_pos_encoding=True)
            arrays |= {f"{name}.pixels": pixels, f"{name}.pooled": out.pooler_output}
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(HERE / "family.npz", **{name: arrays[name] for name in sorted(arrays)})


if __name__ == "__main__":
    main()
