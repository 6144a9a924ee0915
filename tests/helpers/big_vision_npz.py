"""Hugging Face's tensors as big_vision's npz, without npsiglip: the mapping that Hugging Face published, undone.

`convert_siglip_to_hf.py` and `convert_siglip2_to_hf.py` of transformers read big_vision's names, flatten the heads of
attention (`reshape(-1, D).T`), make `transpose(3, 2, 0, 1)` of a convolution (of NaFlex `.T`), and put query, key and
value of the MAP head one above the other. Here each step goes back.
"""

import ml_dtypes
import numpy as np

BLOCK = {
    "layer_norm1.weight": "LayerNorm_0/scale",
    "layer_norm1.bias": "LayerNorm_0/bias",
    "layer_norm2.weight": "LayerNorm_1/scale",
    "layer_norm2.bias": "LayerNorm_1/bias",
    "mlp.fc1": "MlpBlock_0/Dense_0",
    "mlp.fc2": "MlpBlock_0/Dense_1",
    "self_attn.q_proj": "MultiHeadDotProductAttention_0/query",
    "self_attn.k_proj": "MultiHeadDotProductAttention_0/key",
    "self_attn.v_proj": "MultiHeadDotProductAttention_0/value",
    "self_attn.out_proj": "MultiHeadDotProductAttention_0/out",
}


def attention_in(weight, bias, heads):
    """Query, key or value: [D, D] of torch -> kernel [D, H, d] and bias [H, d]."""
    width = len(bias)
    return weight.T.reshape(width, heads, width // heads), bias.reshape(heads, width // heads)


def attention_out(weight, heads):
    """[D, D] of torch -> [H, d, D]."""
    return weight.T.reshape(heads, len(weight) // heads, len(weight))


def block(tensors, prefix, heads):
    """One encoder layer: the names below encoderblock -> arrays."""
    found = {}
    for theirs, ours in BLOCK.items():
        if theirs.startswith("layer_norm"):
            found[ours] = tensors[f"{prefix}.{theirs}"]
            continue
        weight, bias = tensors[f"{prefix}.{theirs}.weight"], tensors[f"{prefix}.{theirs}.bias"]
        if theirs.startswith("mlp"):
            found[f"{ours}/kernel"], found[f"{ours}/bias"] = weight.T, bias
        elif theirs.endswith("out_proj"):
            found[f"{ours}/kernel"], found[f"{ours}/bias"] = attention_out(weight, heads), bias
        else:
            found[f"{ours}/kernel"], found[f"{ours}/bias"] = attention_in(weight, bias, heads)
    return found


def encoder(tensors, prefix, path, depth, heads, stacked):
    """All layers of a tower, one by one or with a leading dimension."""
    blocks = [block(tensors, f"{prefix}.encoder.layers.{i}", heads) for i in range(depth)]
    if stacked:
        return {f"{path}/encoderblock/{name}": np.stack([b[name] for b in blocks]) for name in blocks[0]}
    return {f"{path}/encoderblock_{i}/{name}": value for i, b in enumerate(blocks) for name, value in b.items()}


def image_arrays(tensors, config, stacked):
    """Below img/."""
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    patch, positions = (tensors[f"vision_model.embeddings.{name}_embedding.weight"] for name in ("patch", "position"))
    head = {
        name[len("vision_model.head.") :]: v for name, v in tensors.items() if name.startswith("vision_model.head.")
    }
    side = int(len(positions) ** 0.5)
    found = {
        "img/embedding/kernel": patch.transpose(2, 3, 1, 0) if patch.ndim == 4 else patch.T,
        "img/embedding/bias": tensors["vision_model.embeddings.patch_embedding.bias"],
        "img/pos_embedding": positions[None] if patch.ndim == 4 else positions.reshape(side, side, -1),
        "img/Transformer/encoder_norm/scale": tensors["vision_model.post_layernorm.weight"],
        "img/Transformer/encoder_norm/bias": tensors["vision_model.post_layernorm.bias"],
        **encoder(tensors, "vision_model", "img/Transformer", depth, heads, stacked),
    }
    pooling = {
        "probe": head["probe"],
        "LayerNorm_0/scale": head["layernorm.weight"],
        "LayerNorm_0/bias": head["layernorm.bias"],
        "MlpBlock_0/Dense_0/kernel": head["mlp.fc1.weight"].T,
        "MlpBlock_0/Dense_0/bias": head["mlp.fc1.bias"],
        "MlpBlock_0/Dense_1/kernel": head["mlp.fc2.weight"].T,
        "MlpBlock_0/Dense_1/bias": head["mlp.fc2.bias"],
        "MultiHeadDotProductAttention_0/out/kernel": attention_out(head["attention.out_proj.weight"], heads),
        "MultiHeadDotProductAttention_0/out/bias": head["attention.out_proj.bias"],
    }
    weights, biases = (np.split(head[f"attention.in_proj_{name}"], 3) for name in ("weight", "bias"))
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        kernel, flat = attention_in(weight, bias, heads)
        pooling |= {
            f"MultiHeadDotProductAttention_0/{name}/kernel": kernel,
            f"MultiHeadDotProductAttention_0/{name}/bias": flat,
        }
    return found | {f"img/MAPHead_0/{name}": value for name, value in pooling.items()}


def text_arrays(tensors, config, stacked):
    """Below txt/."""
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    return {
        "txt/Embed_0/embedding": tensors["text_model.embeddings.token_embedding.weight"],
        "txt/pos_embedding": tensors["text_model.embeddings.position_embedding.weight"][None],
        "txt/Encoder_0/encoder_norm/scale": tensors["text_model.final_layer_norm.weight"],
        "txt/Encoder_0/encoder_norm/bias": tensors["text_model.final_layer_norm.bias"],
        "txt/head/kernel": tensors["text_model.head.weight"].T,
        "txt/head/bias": tensors["text_model.head.bias"],
        **encoder(tensors, "text_model", "txt/Encoder_0", depth, heads, stacked),
    }


def arrays_of(tensors, config, stacked=False, root="params/"):
    """The arrays of the npz: `tensors` and `config` of a folder that `save_pretrained` wrote."""
    found = (
        image_arrays(tensors, config["vision_config"], stacked)
        | text_arrays(tensors, config["text_config"], stacked)
        | {"t": tensors["logit_scale"], "b": tensors["logit_bias"]}
    )
    return {root + name: value for name, value in found.items()}


def write(path, arrays):
    """As big_vision does, with NumPy, which has no name for bfloat16."""
    np.savez(path, **{k: v.view("V2") if v.dtype == ml_dtypes.bfloat16 else v for k, v in arrays.items()})
    return path
