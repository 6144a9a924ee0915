"""Every intermediate of Hugging Face's SiglipModel, under npsiglip's tap names and in npsiglip's shapes.

Source: `transformers/models/siglip/modeling_siglip.py` (5.x) and `torch.nn.functional.multi_head_attention_forward`.
Values are caught by forward hooks, so that they are Hugging Face's own. Three kinds are not visible to a hook and are
computed here from visible ones, by the same torch operations in the same order and in the model's own dtype:

- `attn.probs` of the blocks, which SDPA never forms. In float32 they come from Hugging Face's own eager attention,
  given the q and k that the hooks caught. In float64 they come from torch.softmax: eager attention computes its
  softmax in float32 whatever the model's dtype is, so a double model has to run with SDPA and its attention
  probabilities have to be computed outside of it, or nothing agrees to better than 1e-7.
- `map_head.attn.{q,k,v,probs,mix}`: nn.MultiheadAttention keeps them to itself.
- `probs`: SiglipModel stops at the logits.
"""

from collections.abc import Callable
from os import PathLike

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import SiglipModel
from transformers.models.siglip.modeling_siglip import eager_attention_forward


def hf_model(folder: str | PathLike, dtype: torch.dtype | str, attn: str = "sdpa") -> SiglipModel:
    """Hugging Face's SiglipModel of a folder, in `dtype` ("float64", torch.float32 ...), ready for inference."""
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return SiglipModel.from_pretrained(folder, dtype=dtype, attn_implementation=attn).eval()


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[N, L, D] -> [N, H, L, Dh]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


class Recorder:
    """Stores what flows into and out of modules; leaving the context removes its hooks."""

    def __init__(self) -> None:
        self.taps: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def output(self, name: str, module: nn.Module) -> None:
        """`name` is what `module` returns."""
        self.call(module, lambda args, output: {name: output})

    def input(self, name: str, module: nn.Module) -> None:
        """`name` is what `module` is given."""
        self.call(module, lambda args, output: {name: args[0]})

    def call(self, module: nn.Module, taps_of: Callable[[tuple, Tensor], dict[str, Tensor]]) -> None:
        """`taps_of(args, output)` gives the taps of `module`."""

        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            self.taps.update(taps_of(args, output))

        self._handles.append(module.register_forward_hook(hook))


def attention_probs(attention: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    """[N, L, D] queries and keys -> [N, H, L, L] in the model's dtype; see the module's docstring."""
    q, k = (split_heads(x, attention.num_heads) for x in (q, k))
    if q.dtype == torch.float64:
        return torch.softmax(q @ k.transpose(-1, -2) * attention.scale, dim=-1)
    return eager_attention_forward(attention, q, k, k, None, attention.scale)[1]


def record_mlp(recorder: Recorder, name: str, mlp: nn.Module) -> None:
    """Taps of one MLP."""
    recorder.output(f"{name}.fc1", mlp.fc1)
    recorder.input(f"{name}.gelu", mlp.fc2)
    recorder.output(f"{name}.fc2", mlp.fc2)


def record_tower(recorder: Recorder, tower: str, layers: nn.ModuleList, final_ln: nn.Module) -> None:
    """Taps of all blocks of a tower and of its final LayerNorm; `attn.probs` follow later."""
    for i, layer in enumerate(layers):
        name, attn = f"{tower}.blocks.{i:02d}", layer.self_attn
        recorder.output(f"{name}.ln1", layer.layer_norm1)
        recorder.output(f"{name}.attn.q", attn.q_proj)
        recorder.output(f"{name}.attn.k", attn.k_proj)
        recorder.output(f"{name}.attn.v", attn.v_proj)
        recorder.input(f"{name}.attn.mix", attn.out_proj)
        recorder.output(f"{name}.attn.out", attn.out_proj)
        recorder.input(f"{name}.+attn", layer.layer_norm2)
        recorder.output(f"{name}.ln2", layer.layer_norm2)
        record_mlp(recorder, f"{name}.mlp", layer.mlp)
        recorder.output(f"{name}.+mlp", layer)
    recorder.output(f"{tower}.final_ln", final_ln)


def map_attention(attention: nn.MultiheadAttention, args: tuple) -> dict[str, Tensor]:
    """What nn.MultiheadAttention computes between its arguments and its output, step by step as it does.

    The probe's q goes through one product, k and v of the tokens through another; q is scaled before the product
    with k, heads are part of the batch, and the batch is the second axis of tokens.
    """
    probe, tokens, _ = (x.transpose(0, 1) for x in args)  # [1, N, D], [L, N, D]
    width, num_heads = attention.embed_dim, attention.num_heads
    w, b = attention.in_proj_weight, attention.in_proj_bias
    q = F.linear(probe, w[:width], b[:width])
    kv = F.linear(tokens, w[width:], b[width:]).unflatten(-1, (2, width)).movedim(-2, 0).contiguous()
    q_heads, k_heads, v_heads = (
        x.reshape(len(x), -1, width // num_heads).transpose(0, 1) for x in (q, kv[0], kv[1])
    )  # [N * H, L, Dh]
    scaled = q_heads * (1.0 / float(width // num_heads)) ** 0.5
    probs = torch.softmax(torch.bmm(scaled, k_heads.transpose(-2, -1)), dim=-1)
    mix = torch.bmm(probs, v_heads).transpose(0, 1).reshape(-1, width)
    return {
        "image.map_head.attn.q": q.transpose(0, 1),
        "image.map_head.attn.k": kv[0].transpose(0, 1),
        "image.map_head.attn.v": kv[1].transpose(0, 1),
        "image.map_head.attn.probs": probs.unflatten(0, (-1, num_heads)),
        "image.map_head.attn.mix": mix.unsqueeze(1),
    }


def record_map_head(recorder: Recorder, head: nn.Module) -> None:
    """Taps of the MAP head. Its last sum is pooled without a module in between: `+mlp` follows later."""
    name = "image.map_head"
    recorder.call(head.attention, lambda args, output: map_attention(head.attention, args))
    recorder.input(f"{name}.attn.out", head.layernorm)
    recorder.output(f"{name}.ln", head.layernorm)
    record_mlp(recorder, f"{name}.mlp", head.mlp)
    recorder.output("image.pooled", head)


def hf_taps(model: SiglipModel, pixel_values: np.ndarray, input_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every intermediate of both towers, the embeddings, logits [N, K] and probabilities, in the model's dtype.

    Args:
        model: from `hf_model`. Its attention should be SDPA in float64; either kind works in float32.
        pixel_values: [N, 3, H, W].
        input_ids: [K, L] integers.
    """
    vision, text = model.vision_model, model.text_model
    pixels, ids = torch.from_numpy(pixel_values), torch.from_numpy(np.asarray(input_ids, np.int64))
    with Recorder() as recorder, torch.no_grad():
        recorder.call(
            vision.embeddings.patch_embedding,
            lambda args, output: {"image.patch_embed": output.flatten(2).transpose(1, 2)},
        )
        recorder.output("image.embed", vision.embeddings)
        record_tower(recorder, "image", vision.encoder.layers, vision.post_layernorm)
        record_map_head(recorder, vision.head)
        recorder.output("text.embed", text.embeddings)
        record_tower(recorder, "text", text.encoder.layers, text.final_layer_norm)
        recorder.input("text.pooled", text.head)
        recorder.output("text.head", text.head)
        output = model(pixel_values=pixels.to(model.dtype), input_ids=ids)

        taps = recorder.taps
        for tower, layers in (("image", vision.encoder.layers), ("text", text.encoder.layers)):
            for i, layer in enumerate(layers):
                name = f"{tower}.blocks.{i:02d}.attn"
                taps[f"{name}.probs"] = attention_probs(layer.self_attn, taps[f"{name}.q"], taps[f"{name}.k"])
        taps["image.map_head.+mlp"] = taps["image.pooled"][:, None]
        taps["zimg"], taps["ztxt"] = output.image_embeds, output.text_embeds
        taps["logits"] = output.logits_per_image
        taps["probs"] = torch.sigmoid(output.logits_per_image)
    # NumPy has no bfloat16; float32 holds its numbers exactly
    known = {name: value.float() if value.dtype is torch.bfloat16 else value for name, value in taps.items()}
    return {name: np.ascontiguousarray(value.numpy()) for name, value in known.items()}
