"""Everything that a page shows of one picture and its labels, from a real trace: numbers, pictures, weights.

What is computed in float64 is the trace of `npsiglip.verify.golden`; other passes than that one (made grey, a word left
out, the pairs of panel 9) are the model's own, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npsiglip import __version__
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ImageConfig, SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.explain import measures
from npsiglip.explain.arrays import jpeg, png, stored
from npsiglip.explain.weights import gzipped, pack
from npsiglip.images.processor import ImageProcessor
from npsiglip.model import SigLIP
from npsiglip.params import block_name
from npsiglip.reference.model import softmax, text_tower
from npsiglip.reference.positions import interpolate_bicubic
from npsiglip.texts.siglip import Tokenizer, canonicalize
from npsiglip.verify.arithmetic import HONEST
from npsiglip.verify.golden import RESIZED, Golden
from npsiglip.verify.operations import IDS, PIXELS, Context, forward
from npsiglip.world import World

Array = NDArray[Any]
LIVE_PARAMETERS = 8_000_000  # of a model that a page carries
MOST_QUERIES = 64  # patches that can be clicked where there is no live model
SHOWN_SIDE, EXACT_SIDE = 512, 512  # of the picture: to look at; and kept exactly, for the live resize
FILTERS = 64
PAIRS = 8  # of the loss
PRECISIONS = ("float32", "bfloat16", "int8")


def check_model(model: SigLIP) -> tuple[ImageConfig, Tokenizer | Any]:
    """The image tower's configuration and the tokenizer of a model that a page can be made of.

    Raises:
        InputError: a model of one tower, of NaFlex, without tokenizer or image processor.
    """
    config = model.config
    if config.image is None or config.text is None:
        raise InputError("a page compares an image with labels: expected a model with both towers, and so with a head")
    if config.image.naflex:
        raise InputError("NaFlex models have no page: expected a model whose images have one size")
    if model.tokenizer is None or not isinstance(model.processor, ImageProcessor):
        raise InputError("the model's folder lacks its tokenizer or its image processor: put their files there")
    return config.image, model.tokenizer


def can_live(model: SigLIP) -> bool:
    """Whether a page can carry the model and compute with it: small, SigLIP's tokenizer, pictures that are resized."""
    processor = model.processor
    count = sum(int(np.prod(model.params[name].shape)) for name in model.params)
    return (
        count <= LIVE_PARAMETERS
        and isinstance(model.tokenizer, Tokenizer)
        and isinstance(processor, ImageProcessor)
        and processor.resample in (2, 3)
        and processor.do_resize
        and processor.do_rescale
        and processor.do_normalize
        and model.config.image is not None
        and model.config.image.activation == "gelu_tanh"
        and isinstance(model.params, Checkpoint)
        and (model.params.folder / "spiece.model").is_file()
    )


def naive_resize(image: Array, height: int, width: int) -> Array:
    """The mean of the four pixels around each new centre, however many lie between: [H, W, 3] -> [height, width, 3]."""

    def places(n_in: int, n_out: int) -> tuple[Array, Array, Array]:
        x = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
        low = np.floor(x).astype(int)
        return low, np.minimum(low + 1, n_in - 1), x - low

    y0, y1, fy = places(image.shape[0], height)
    x0, x1, fx = places(image.shape[1], width)
    image = np.asarray(image, np.float64)
    fy, fx = fy[:, None, None], fx[None, :, None]
    top = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
    low = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
    return np.asarray(np.floor(top * (1 - fy) + low * fy + 0.5), np.uint8)


def picture(golden: Golden, side: int) -> dict[str, Any]:
    """Panel 1: the picture, resized as the model needs it, and the naive way."""
    decoded, resized = golden.before["image.decoded.0"], golden.before[RESIZED][0]
    height, width = decoded.shape[:2]
    exact = max(height, width) <= EXACT_SIDE
    shown = decoded
    if not exact:
        scale = SHOWN_SIDE / max(height, width)
        shown = np.array(Image.fromarray(decoded).resize((max(1, round(width * scale)), max(1, round(height * scale)))))
    naive = naive_resize(decoded, side, side)
    return {
        "height": height,
        "width": width,
        "exact": exact,
        "shown": png(shown) if exact else jpeg(shown),
        "resized": png(resized),
        "naive": png(naive),
        "difference": int(np.abs(naive.astype(int) - resized).max()),
    }


def filters(params: Mapping[str, Array], patch_size: int, answers: Array) -> dict[str, Any]:
    """Panel 2: the learned filters whose answers [L, D] differ most between patches, around grey; a sheet of them."""
    w = np.asarray(params["image.patch_embed.w"], np.float64).T  # [D, P * P * 3]
    order = np.argsort(-answers.std(axis=0), kind="stable")[:FILTERS]
    tiles = w[order].reshape(-1, patch_size, patch_size, 3)
    tiles = 127.5 + 127.5 * tiles / np.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
    across = 16 if len(order) >= 16 else len(order)
    tiles = tiles[: len(order) // across * across]
    sheet = tiles.reshape(-1, across, patch_size, patch_size, 3).transpose(0, 2, 1, 3, 4)
    sheet = np.rint(sheet.reshape(-1, across * patch_size, 3))
    return {"sheet": png(sheet), "across": across, "channels": [int(i) for i in order[: len(tiles)]]}


def queries_of(rows: int, columns: int) -> list[int]:
    """The patches that can be clicked: all, or every second, third ... along both axes."""
    step = 1
    while -(-rows // step) * -(-columns // step) > MOST_QUERIES:
        step += 1
    first = step // 2
    return [r * columns + c for r in range(first, rows, step) for c in range(first, columns, step)]


def towers(golden: Golden, config: ImageConfig, rows: int, columns: int, queries: list[int]) -> dict[str, Any]:
    """Panels 2 to 6, the image tower."""
    names = [block_name("image", i) for i in range(config.depth)]
    probs = np.stack([golden[f"{name}.attn.probs"][0] for name in names])  # [depth, H, L, L]
    streams = np.stack([golden["image.embed"][0], *(golden[f"{name}.+mlp"][0] for name in names)])
    positions = np.asarray(golden.params["image.pos_embed"], np.float64)
    grid = rows + max(2, rows // 2)
    wider = interpolate_bicubic(positions, grid, grid)
    similar = np.stack([measures.cosines(stream, stream) for stream in streams])
    head = golden["image.map_head.attn.probs"][0, :, 0]  # [H, L]
    off = ~np.eye(similar.shape[1], dtype=bool)
    return {
        "arrays": {
            "attention": stored(probs[:, :, queries]),
            "entropy": stored(measures.entropy(probs)),
            "distance": stored(measures.reach(probs, rows, columns)),
            "positions": stored(measures.cosines(positions, positions)[queries]),
            "positions_wider": stored(measures.cosines(positions, wider)[queries]),
            "probe": stored(head),
            "probe_entropy": stored(measures.entropy(head[:, None])),
            "patch_norms": stored(np.linalg.norm(golden["image.patch_embed"][0], axis=-1)),
            "norms": stored(np.linalg.norm(streams, axis=-1)),
            "stream_similarity": stored((1 + similar[:, queries]) / 2),
            "mean_similarity": stored(similar[:, off].mean(axis=-1) if off.any() else np.ones(len(similar))),
        },
        "wider_grid": grid,
        "outliers": [dict(zip(("channels", "times"), measures.outliers(stream), strict=True)) for stream in streams],
    }


def t_and_bias(golden: Golden) -> tuple[float, float]:
    """exp(t_prime) and the bias, of logits."""
    return float(np.exp(float(golden.params["t_prime"].item()))), float(golden.params["bias"].item())


def shares(golden: Golden, model: SigLIP, config: ImageConfig, rows: int, columns: int) -> dict[str, Any]:
    """Panel 5: what each label owes to each patch."""
    pixels = np.asarray(golden.inputs[PIXELS], np.float64)
    t, bias = t_and_bias(golden)
    gradient = measures.gradient_shares(golden.params, config, pixels, golden, t)
    occlusion = measures.occlusion_shares(model, config, pixels, golden["ztxt"], golden["logits"][0], t, bias)
    found = measures.windows(rows, columns)
    summed = measures.by_window(gradient, found)
    return {
        "arrays": {"gradient": stored(gradient), "occlusion": stored(occlusion)},
        "windows": [int(w) for w in found.of],
        "agreement": [measures.agreement(x, y) for x, y in zip(summed, occlusion, strict=True)],
    }


def texts(golden: Golden, model: SigLIP, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Panel 7: each label's text, its pieces, and what padding and each word do to its logit."""
    tokenizer, config = golden.tokenizer, model.config.text
    assert config is not None
    t, bias = t_and_bias(golden)
    zimg, ids = golden["zimg"][0], golden.inputs[IDS]
    wide = measures.Wide(golden.params)
    found = []
    for k, (label, text) in enumerate(zip(labels, golden.texts, strict=True)):
        length = min(len(tokenizer.encode(text)), tokenizer.seq_len)
        mask = np.arange(tokenizer.seq_len)[None] < length
        masked = text_tower(wide, config, ids[k : k + 1], mask=mask)[0]
        masked /= np.linalg.norm(masked)
        logit = float(golden["logits"][0, k])
        words = measures.without_words(text)
        changes = []
        if words:
            ztxt = np.asarray(model.encode_text([rest for _, rest in words]), np.float64)
            changes = [
                {"word": word, "change": logit - float(t * z @ zimg + bias)}
                for (word, _), z in zip(words, ztxt, strict=True)
            ]
        found.append(
            {
                "label": label,
                "text": text,
                "canonical": canonicalize(text, tokenizer.canonicalize) if isinstance(tokenizer, Tokenizer) else text,
                "pieces": tokenizer.tokenize(text),
                "ids": [int(i) for i in ids[k]],
                "length": length,
                "masked_cosine": float(masked @ golden["ztxt"][k]),
                "masked_logit": float(t * masked @ zimg + bias),
                "words": changes,
            }
        )
    return found


def pairs(model: SigLIP) -> dict[str, Any]:
    """Panel 9: drawn pictures with their captions, and the cosines of all pairs."""
    world = World(seed=9, image_size=64, split="test", mix={"single": 1.0}, plain=1.0, languages=0.0, difficulty=0.2)
    samples: dict[str, Any] = {}
    for i in range(200):
        one = world.sample(i)
        samples.setdefault(one.caption, one)
        if len(samples) == PAIRS:
            break
    images = [np.asarray(one.image) for one in samples.values()]
    zimg, ztxt = (
        np.asarray(model.encode_image(images), np.float64),
        np.asarray(model.encode_text(list(samples)), np.float64),
    )
    return {
        "pictures": [png(image) for image in images],
        "captions": list(samples),
        "cosines": (zimg @ ztxt.T).tolist(),
    }


def precision(golden: Golden, config: SigLIPConfig) -> dict[str, Any]:
    """Panel 10: the error of each depth against float64, as honest ports in three dtypes have it; and what remains."""
    assert config.image is not None
    taps = ["image.embed", *(f"{block_name('image', i)}.+mlp" for i in range(config.image.depth))]
    taps += ["image.final_ln", "image.pooled", "zimg", "ztxt"]
    found: dict[str, Any] = {"taps": taps, "errors": {}, "probs": {}, "logits": {}}
    for dtype in PRECISIONS:
        errors: dict[str, float] = {}
        for tap, x in forward(Context(config, golden.params, HONEST[dtype][0]), golden.ops, golden.inputs):
            if tap in taps:
                truth = golden[tap]
                errors[tap] = float(np.linalg.norm(np.asarray(x, np.float64) - truth) / np.linalg.norm(truth))
            if tap in ("probs", "logits"):
                found[tap][dtype] = [float(p) for p in x[0]]
        found["errors"][dtype] = [errors[tap] for tap in taps]
    return found


def gather(
    golden: Golden, model: SigLIP, labels: Sequence[str], template: str, name: str, live: bool, training: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """The page's data, and the texts of a live model: its weights and its vocabulary.

    Args:
        golden: the trace of one image and the labels' texts.
        model: whose trace it is.
        labels, template: as they were given.
        name: of the model.
        live: whether the page carries the model.
        training: what panel 11 shows, see `training`.
    """
    config, _ = check_model(model)
    size = golden.inputs[PIXELS].shape[2]
    rows = columns = size // config.patch_size
    queries = queries_of(rows, columns)
    cosines, logits = golden["zimg"] @ golden["ztxt"].T, golden["logits"][0]
    image, attribution = towers(golden, config, rows, columns, queries), shares(golden, model, config, rows, columns)
    assert model.config.text is not None and isinstance(model.processor, ImageProcessor)
    data = {
        "npsiglip": __version__,
        "model": name,
        "parameters": sum(int(np.prod(golden.params[key].shape)) for key in golden.params),
        "config": {"image": asdict(config), "text": asdict(model.config.text)},
        "labels": list(labels),
        "template": template,
        "rows": rows,
        "columns": columns,
        "queries": queries,
        "picture": picture(golden, size),
        "filters": filters(golden.params, config.patch_size, golden["image.patch_embed"][0]),
        "arrays": image.pop("arrays") | attribution.pop("arrays"),
        "image": image,
        "shares": attribution,
        "texts": texts(golden, model, labels),
        "t_prime": float(golden.params["t_prime"].item()),
        "bias": float(golden.params["bias"].item()),
        "cosines": [float(x) for x in cosines[0]],
        "logits": [float(x) for x in logits],
        "probs": [float(x) for x in golden["probs"][0]],
        "softmax": [float(x) for x in softmax(logits)],
        "pairs": pairs(model),
        "precision": precision(golden, model.config),
        "training": training,
    }
    if not live:
        return data, {}
    names, width, text = pack(golden.params)
    assert isinstance(golden.tokenizer, Tokenizer)
    assert isinstance(model.params, Checkpoint)
    processor = model.processor
    data["live"] = {
        "names": names,
        "width": width,
        "lower": golden.tokenizer.canonicalize,
        "settings": {
            "resample": processor.resample,
            "rescale_factor": processor.rescale_factor,
            "image_mean": processor.image_mean,
            "image_std": processor.image_std,
        },
    }
    return data, {"weights": text, "spiece": gzipped((model.params.folder / "spiece.model").read_bytes())}
