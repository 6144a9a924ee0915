"""What others call our taps: Hugging Face, timm and open_clip, big_vision, llama.cpp, and ONNX exports of these.

A line of a table: their name, where `{i}` is the number of a block, and ours. Several of ours, with `|`, are one tensor
of theirs, beside each other along the last axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from npsiglip.verify.operations import IDS, PIXELS

_HF_BLOCK = """
{T}.layers.{i}.layer_norm1              {t}.blocks.{i}.ln1
{T}.layers.{i}.self_attn.q_proj         {t}.blocks.{i}.attn.q
{T}.layers.{i}.self_attn.k_proj         {t}.blocks.{i}.attn.k
{T}.layers.{i}.self_attn.v_proj         {t}.blocks.{i}.attn.v
{T}.layers.{i}.self_attn.probs          {t}.blocks.{i}.attn.probs
{T}.layers.{i}.self_attn.out_proj.input {t}.blocks.{i}.attn.mix
{T}.layers.{i}.self_attn.out_proj       {t}.blocks.{i}.attn.out
{T}.layers.{i}.self_attn                {t}.blocks.{i}.attn.out
{T}.layers.{i}.layer_norm2.input        {t}.blocks.{i}.+attn
{T}.layers.{i}.layer_norm2              {t}.blocks.{i}.ln2
{T}.layers.{i}.mlp.fc1                  {t}.blocks.{i}.mlp.fc1
{T}.layers.{i}.mlp.activation_fn        {t}.blocks.{i}.mlp.gelu
{T}.layers.{i}.mlp.fc2                  {t}.blocks.{i}.mlp.fc2
{T}.layers.{i}.mlp                      {t}.blocks.{i}.mlp.fc2
{T}.layers.{i}                          {t}.blocks.{i}.+mlp
"""
_HF = """
pixel_values                                    image.pixels
input_ids                                       text.ids
vision_model.embeddings.patch_embedding         image.patch_embed
vision_model.embeddings                         image.embed
vision_model.encoder.input                      image.embed
vision_model.post_layernorm                     image.final_ln
vision_model.head.attention                     image.map_head.attn.out
vision_model.head.layernorm.input               image.map_head.attn.out
vision_model.head.layernorm                     image.map_head.ln
vision_model.head.mlp.fc1                       image.map_head.mlp.fc1
vision_model.head.mlp.activation_fn             image.map_head.mlp.gelu
vision_model.head.mlp.fc2                       image.map_head.mlp.fc2
vision_model.head.mlp                           image.map_head.mlp.fc2
vision_model.head                               image.pooled
vision_model.pooler_output                      image.pooled
vision_model.last_hidden_state                  image.final_ln
text_model.embeddings                           text.embed
text_model.encoder.input                        text.embed
text_model.final_layer_norm                     text.final_ln
text_model.last_hidden_state                    text.final_ln
text_model.head.input                           text.pooled
text_model.head                                 text.head
text_model.pooler_output                        text.head
image_embeds                                    zimg
text_embeds                                     ztxt
logits_per_image                                logits
""" + "".join(
    _HF_BLOCK.replace("{T}", f"{tower}.encoder").replace("{t}", ours)
    for tower, ours in (("vision_model", "image"), ("text_model", "text"))
)

_TIMM_IMAGE = """
{T}patch_embed.proj                 image.patch_embed
{T}patch_embed                      image.patch_embed
{T}pos_drop                         image.embed
{T}norm_pre                         image.embed
{T}blocks.{i}.norm1                 image.blocks.{i}.ln1
{T}blocks.{i}.attn.qkv              image.blocks.{i}.attn.q|image.blocks.{i}.attn.k|image.blocks.{i}.attn.v
{T}blocks.{i}.attn.proj             image.blocks.{i}.attn.out
{T}blocks.{i}.attn                  image.blocks.{i}.attn.out
{T}blocks.{i}.norm2                 image.blocks.{i}.ln2
{T}blocks.{i}.mlp.fc1               image.blocks.{i}.mlp.fc1
{T}blocks.{i}.mlp.act               image.blocks.{i}.mlp.gelu
{T}blocks.{i}.mlp.fc2               image.blocks.{i}.mlp.fc2
{T}blocks.{i}.mlp                   image.blocks.{i}.mlp.fc2
{T}blocks.{i}                       image.blocks.{i}.+mlp
{T}norm                             image.final_ln
{T}attn_pool.q                      image.map_head.attn.q
{T}attn_pool.kv                     image.map_head.attn.k|image.map_head.attn.v
{T}attn_pool.proj                   image.map_head.attn.out
{T}attn_pool.norm                   image.map_head.ln
{T}attn_pool.mlp.fc1                image.map_head.mlp.fc1
{T}attn_pool.mlp.act                image.map_head.mlp.gelu
{T}attn_pool.mlp.fc2                image.map_head.mlp.fc2
{T}attn_pool.mlp                    image.map_head.mlp.fc2
{T}attn_pool                        image.pooled
"""
_OPEN_CLIP_TEXT = """
text.transformer.resblocks.{i}.ln_1         text.blocks.{i}.ln1
text.transformer.resblocks.{i}.attn         text.blocks.{i}.attn.out
text.transformer.resblocks.{i}.ln_2         text.blocks.{i}.ln2
text.transformer.resblocks.{i}.mlp.c_fc     text.blocks.{i}.mlp.fc1
text.transformer.resblocks.{i}.mlp.gelu     text.blocks.{i}.mlp.gelu
text.transformer.resblocks.{i}.mlp.c_proj   text.blocks.{i}.mlp.fc2
text.transformer.resblocks.{i}.mlp          text.blocks.{i}.mlp.fc2
text.transformer.resblocks.{i}              text.blocks.{i}.+mlp
text.ln_final                               text.final_ln
text.text_projection                        text.head
image_features                              zimg
text_features                               ztxt
"""
_TIMM = _TIMM_IMAGE.replace("{T}", "visual.trunk.") + _TIMM_IMAGE.replace("{T}", "") + _OPEN_CLIP_TEXT

_BIG_VISION = """
img.stem                            image.patch_embed
img.with_posemb                     image.embed
img.encoded                         image.final_ln
img.head_input                      image.pooled
img.normalized                      zimg
txt.transformed                     text.final_ln
txt.pre_logits                      text.pooled
txt.logits                          text.head
txt.normalized                      ztxt
""" + "".join(
    f"""
{tower}.encoder.block{{i}}.sa       {ours}.blocks.{{i}}.attn.out
{tower}.encoder.block{{i}}.+sa      {ours}.blocks.{{i}}.+attn
{tower}.encoder.block{{i}}.mlp      {ours}.blocks.{{i}}.mlp.fc2
{tower}.encoder.block{{i}}.+mlp     {ours}.blocks.{{i}}.+mlp
"""
    for tower, ours in (("img", "image"), ("txt", "text"))
)

_GGUF = """
inp_raw                     image.pixels
inp                         image.patch_embed
pos_embed                   image.embed
layer_inp_normed-{i}        image.blocks.{i}.ln1
Qcur-{i}                    image.blocks.{i}.attn.q
Kcur-{i}                    image.blocks.{i}.attn.k
Vcur-{i}                    image.blocks.{i}.attn.v
kqv_out-{i}                 image.blocks.{i}.attn.mix
attn_out-{i}                image.blocks.{i}.attn.out
ffn_inp-{i}                 image.blocks.{i}.+attn
ffn_inp_normed-{i}          image.blocks.{i}.ln2
ffn_up_b-{i}                image.blocks.{i}.mlp.fc1
ffn_gelu-{i}                image.blocks.{i}.mlp.gelu
ffn_out-{i}                 image.blocks.{i}.mlp.fc2
layer_out-{i}               image.blocks.{i}.+mlp
"""

SCHEMES = {"hf": _HF, "timm": _TIMM, "big_vision": _BIG_VISION, "gguf": _GGUF}
_PREFIX = re.compile(r"^(?:module|model|siglip|base_model|_orig_mod|outputs?)\.")
# inputs are told by these names whatever scheme the others follow
INPUTS = {"pixel_values": (PIXELS,), PIXELS: (PIXELS,), "input_ids": (IDS,), IDS: (IDS,)}
_OURS = re.compile(r"(image|text)\.[\w.+]+|zimg|ztxt|logits|probs")


class Found(NamedTuple):
    """Their name; ours, several for a fused tensor; and the table that says so."""

    theirs: str
    ours: tuple[str, ...]


def _compiled(table: str) -> list[tuple[re.Pattern[str], str]]:
    rules = []
    for line in table.strip().splitlines():
        if line.strip():
            theirs, ours = line.split()
            rules.append((re.compile(re.escape(theirs).replace(r"\{i\}", r"(\d+)")), ours))
    return rules


RULES = {scheme: _compiled(table) for scheme, table in SCHEMES.items()}


def bare(name: str) -> str:
    """Without what wrappers put in front; slashes are dots."""
    name = name.strip("/").replace("/", ".")
    while (shorter := _PREFIX.sub("", name)) != name:
        name = shorter
    return name


def without_node(name: str) -> str:
    """The module of an ONNX node's output: /vision_model/head/mlp/fc1/Add_output_0 -> vision_model.head.mlp.fc1."""
    return bare(name).rpartition(".")[0] if name.startswith("/") else bare(name)


def ours_of(name: str, scheme: str) -> tuple[str, ...]:
    """Our taps for one of their names; empty if it is none."""
    plain = without_node(name) if scheme == "onnx" else bare(name)
    schemes = ("hf", "timm") if scheme == "onnx" else (scheme,)
    for one in schemes:
        for pattern, ours in RULES[one]:
            if match := pattern.fullmatch(plain):
                number = f"{int(match[1]):02d}" if match.groups() else ""
                return tuple(part.replace("{i}", number) for part in ours.split("|"))
    return ()


def _own(name: str) -> tuple[str, ...]:
    return INPUTS.get(name) or ((name,) if _OURS.fullmatch(name) else ())


NAMINGS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "npsiglip": _own,
    **{
        scheme: (lambda name, scheme=scheme: INPUTS.get(name) or ours_of(name, scheme))  # type: ignore[misc]
        for scheme in (*SCHEMES, "onnx")
    },
}


def read_names(names: Iterable[str], naming: str, known: Mapping[str, object]) -> tuple[str, list[Found]]:
    """Whose names these are, and which of our taps they mean.

    Args:
        names: of a candidate's tensors, in their order.
        naming: a key of `NAMINGS`, or "auto" for the one that knows most of them.
        known: our taps.

    Of several tensors for one tap the last counts: an exported module is several nodes, and the last is its result.
    """
    names = list(names)

    def meant(one: str) -> list[Found]:
        found = {}
        for name in names:
            ours = NAMINGS[one](name)
            if ours and all(tap in known for tap in ours):
                found[ours] = name
        return [Found(theirs, ours) for ours, theirs in found.items()]

    if naming != "auto":
        return naming, meant(naming)
    readings = {one: meant(one) for one in NAMINGS}
    best = max(readings, key=lambda one: len(readings[one]))
    return best, readings[best]
