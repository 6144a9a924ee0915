"""Small SigLIP and SigLIP 2 models of transformers with random weights, and inputs for them."""

import numpy as np
import torch
from torch.nn import functional as F

from npsiglip import Checkpoint, SigLIP
from npsiglip.metrics import relative_l2
from npsiglip.params import cast

REFERENCE_BOUND = 1e-12  # what the project promises
WIDTHS = {"hidden_size": 60, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 88}
TEXT = {"hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 72}
TEXT |= {"vocab_size": 99, "max_position_embeddings": 12, "projection_size": 60, "pad_token_id": 1}
FIXED = WIDTHS | {"image_size": 40, "patch_size": 8}
FLEXIBLE = WIDTHS | {"num_patches": 36, "patch_size": 4}
GRIDS = ((6, 6), (3, 12), (1, 30), (8, 2), (5, 7), (2, 2))  # no single column: see test_one_column_in_torch
SDPA, EAGER = {"attn_implementation": "sdpa"}, {"attn_implementation": "eager"}


def randomized(model, folder):
    """Weights in which nothing is zero, one or flat; the model as stored, in double precision, and its folder."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("logit_scale"):
                value.fill_(4.7)
            elif name.endswith("logit_bias"):
                value.fill_(-12.9)
            elif value.ndim > 1:
                value.copy_(noise * (1.5 / value[0].numel() ** 0.5 if "embedding.weight" not in name else 0.5))
            else:
                value.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
    model.save_pretrained(folder)
    return folder


def hf(kind, folder, dtype="float64", **keywords):
    return kind.from_pretrained(folder, dtype=getattr(torch, dtype), **(SDPA | keywords)).eval()


def load(folder):
    """These folders have no tokenizer."""
    checkpoint = Checkpoint.open(folder)
    return SigLIP(checkpoint.config, checkpoint)


def truth(folder):
    """Config and float64 parameters of a folder."""
    checkpoint = Checkpoint.open(folder)
    return checkpoint.config, cast(checkpoint, np.float64)


def some_ids(n=3, length=12):
    return np.random.default_rng(1).integers(0, 99, (n, length))


def some_pixels():
    return np.random.default_rng(6).uniform(-1, 1, (2, 3, 40, 40)).astype(np.float32)


def some_patches(grids=GRIDS, most=36, size=4):
    rng = np.random.default_rng(2)
    shapes = np.array(grids)
    mask = np.arange(most) < shapes.prod(axis=1)[:, None]
    patches = rng.uniform(-1, 1, (len(grids), most, 3 * size * size)).astype(np.float32) * mask[:, :, None]
    return {"pixel_values": patches, "pixel_attention_mask": mask.astype(np.int32), "spatial_shapes": shapes}


def tensors(batch, dtype=torch.float64):
    return {
        k: torch.from_numpy(v).to(dtype) if v.dtype == np.float32 else torch.from_numpy(v) for k, v in batch.items()
    }


def in_double(table, shapes, max_length):
    """Hugging Face's own steps, but for its cast of a table on a CPU to float32, whatever the model's dtype."""
    out = torch.empty(len(shapes), max_length, table.shape[-1], dtype=table.dtype)
    for row, (height, width) in zip(out, shapes.tolist(), strict=True):
        grid = F.interpolate(
            table.permute(2, 0, 1)[None], (height, width), mode="bilinear", align_corners=False, antialias=True
        )
        grid = grid[0].flatten(1).T
        row[:] = grid[0]
        row[: height * width] = grid
    return out


def no_worse(ours, theirs, true):
    """The error of float32, over transformers'; both are rounding errors, so a factor of 2 is in the dice."""
    mine, other = relative_l2(ours, true), relative_l2(theirs, true)
    assert mine <= max(2 * other, 3e-7), (mine, other)
