"""A pack is made: pictures and texts, what the model makes of them, and how far a float32 port may be off."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
from numpy.typing import NDArray

from npsiglip import __version__
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import InputError
from npsiglip.hub.resolve import model_folder
from npsiglip.model import SigLIP
from npsiglip.params import cast, random_params
from npsiglip.processors import preprocessor_config
from npsiglip.verify.diagnose import LIMITS
from npsiglip.verify.golden import DECODED, RESIZED, Golden, hash_of, weights_hash
from npsiglip.verify.inputs import ONE_LEVEL, ROUNDED
from npsiglip.verify.operations import IDS, PIXELS, forward
from npsiglip.verify.packs import (
    BY_PICTURE,
    BY_TEXT,
    EXACT,
    FORMAT,
    KINDS,
    LARGEST,
    MODEL_FILES,
    ORDER,
    PACK,
    RELATIVE,
    TITLES,
    WEIGHTS,
    Check,
    has_head,
    level_of,
    named_weights,
    resizes,
)
from npsiglip.verify.packs_formats import write_tensors
from npsiglip.verify.replay import Replay, distance, norm
from npsiglip.world import World

Array = NDArray[Any]

TINY: Final = "tiny"
SEED: Final = 20230327
TEXTS: Final = (
    "A GREEN Triangle, on white!",
    "the letter \N{LATIN SMALL LETTER A WITH DIAERESIS} \N{EM DASH} 7",
    "",
)
FROM: Final = (
    "texts",
    "pictures",
    "the golden results that each operation reads",
    f"golden {PIXELS} and {IDS}",
    f"golden {PIXELS} and {IDS}",
    "golden logits",
)
WRITTEN: Final = ("tensors.*", "manifest.json", "npsiglip_pack*.h", "test_data_set_*", "weights", "other", "model")
TOKENIZER_FILES: Final = ("spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def tiny_model() -> SigLIP:
    """A model of random weights, no two sizes of which are equal, with the built-in model's tokenizer: for unit tests.

    A port can run it in a millisecond, and no exchanged axis passes unseen in it.
    """
    builtin = SigLIP.from_pretrained("builtin")
    assert builtin.tokenizer is not None and builtin.config.text is not None
    text = builtin.config.text
    config = SigLIPConfig(
        ImageConfig(width=36, depth=2, num_heads=3, mlp_dim=56, image_size=38, patch_size=7),
        TextConfig(28, 3, 4, 44, text.seq_len, text.vocab_size, projection_dim=36),
    )
    return SigLIP(config, random_params(config, SEED), tokenizer=builtin.tokenizer)


def pictures() -> tuple[list[Array], list[str]]:
    """Three drawings of one thing each, [H, W, 3] uint8: tall, wide, and small; and what they show."""
    world = World(seed=SEED, image_size=300, mix={"single": 1.0}, plain=1.0, languages=0.0)
    drawn = [world.sample(i) for i in range(3)]
    cuts = (np.s_[:, 30:270], np.s_[50:250, :], np.s_[::5, ::6])
    return [np.asarray(one.image)[cut] for one, cut in zip(drawn, cuts, strict=True)], [one.caption for one in drawn]


def _golden(model: SigLIP, name: str) -> Golden:
    config = model.config
    drawn, captions = pictures()
    texts: Any = None
    if config.text is not None:
        texts = [*captions, *TEXTS]
        if model.tokenizer is None:  # level 0 is left out
            texts = np.random.default_rng(SEED).integers(
                2, config.text.vocab_size, (len(TEXTS) + len(captions), config.text.seq_len)
            )
    return Golden(model, drawn if config.image else None, texts, name)


def _rounded(golden: Golden) -> dict[str, Array]:
    """All that a pack shows of a model's computing; floats in float32, which is what a port is given."""
    return {
        name: np.asarray(x, np.float32) if x.dtype.kind == "f" else np.asarray(x, np.int32 if name == IDS else x.dtype)
        for name, x in golden.items()
    }


def _floors(golden: Golden, params: Mapping[str, Array], shown: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    """Tap -> what rounding makes of it in float32, relative: of the operation alone, and of all from the inputs on.

    Alone: honest arithmetics and sums in plain order (`replay`), and that inputs and golden result were rounded when
    they were stored. From the inputs on: the furthest of honest arithmetics; but no less than what the operations on
    the way add, as if their roundings were independent, for few arithmetics may all be near by chance.
    """
    inputs = golden.inputs
    replay = Replay(golden.config, params, golden.ops, inputs, "float32")
    alone = {step.op.tap: float(np.hypot(step.floor, step.added)) for step in replay(shown)}
    honest = [forward(c, golden.ops, inputs) for c in replay.contexts]
    sums = dict.fromkeys(inputs, 0.0)
    floors = {}
    for op, *taps in zip(golden.ops, *honest, strict=True):
        unit = norm(golden[op.tap])
        spread = max(distance(value, golden[op.tap], unit) for _, value in taps)
        sums[op.tap] = float(np.hypot(alone[op.tap], max(sums[tap] for tap in op.inputs)))
        floors[op.tap] = alone[op.tap], max(spread, sums[op.tap])
    return floors


def _checks(golden: Golden, params: Mapping[str, Array], shown: Mapping[str, Array]) -> list[Check]:
    limit = LIMITS["float32"]
    floors = _floors(golden, params, shown)
    checks = []
    if golden.texts:
        checks.append(Check(0, IDS, "tokenize", ("texts",), (), EXACT, 0.0, 0.0))
    if resizes(golden.processor):
        checks.append(Check(1, PIXELS, "preprocess", ("pictures",), (), LARGEST, ROUNDED["float32"], ONE_LEVEL))
    for op in golden.ops:
        alone, reached = floors[op.tap]
        read = named_weights(op, params)
        if has_head(op):
            checks.append(Check(2, op.tap, op.kind, op.inputs, read, RELATIVE, alone, limit * alone))
        checks.append(Check(level_of(op.tap), op.tap, op.kind, op.inputs, read, RELATIVE, reached, limit * reached))
    if "logits" in shown:
        near = floors["logits"][1] * norm(golden["logits"])
        checks += [Check(5, tap, "rank", ("logits",), (), ORDER, near, limit * near) for tap in (BY_PICTURE, BY_TEXT)]
    return sorted(checks, key=lambda check: check.level)


def _levels(checks: list[Check]) -> list[dict[str, Any]]:
    return [
        {
            "level": level,
            "title": title,
            "from": given,
            "checks": [check._asdict() for check in checks if check.level == level],
        }
        for level, (title, given) in enumerate(zip(TITLES, FROM, strict=True))
        if any(check.level == level for check in checks)
    ]


def _model_files(model: SigLIP, folder: Path, name: str) -> None:
    """What a port's tokenizer and image path read: the tokenizer's own files, and the settings of the images."""
    folder.mkdir(exist_ok=True)
    params = model._params
    source = params.folder if isinstance(params, Checkpoint) else model_folder("builtin") if name == TINY else None
    for file in TOKENIZER_FILES:
        if source is not None and model.config.text and (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    if resizes(model.processor):
        settings = json.dumps(preprocessor_config(model.processor), indent=2)  # type: ignore[arg-type]
        (folder / "preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")


def _clear(folder: Path) -> None:
    """Remove an older pack. pack.json goes first and is written last: a pack without it is not whole."""
    (folder / PACK).unlink(missing_ok=True)
    for pattern in WRITTEN:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def export(model: SigLIP, folder: str | Path, kind: str = "safetensors", name: str = "") -> list[Check]:
    """Write a pack.

    Args:
        model: with both towers, or one of them; not NaFlex.
        folder: is made; must be empty, or hold a pack, whose files are written again.
        kind: of its files: "safetensors", "npz", "onnx-pb" or "c".
        name: how the model is called.

    Raises:
        InputError: an unknown kind; a folder that holds something else, or cannot be written; no onnx package.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise InputError(f"a pack is one of {', '.join(KINDS)}; got {kind!r}")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / PACK).is_file())):
        raise InputError(f"{folder} is there, and no pack: give a new folder")
    golden = _golden(model, name)
    params = cast(golden.params, np.float32)
    shown = _rounded(golden)
    checks = _checks(golden, params, shown)
    tensors = {**shown, **{f"{WEIGHTS}{name}": value for name, value in params.items()}}
    if "logits" in shown:
        scores = golden["logits"]
        tensors[BY_PICTURE] = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
        tensors[BY_TEXT] = np.argsort(-scores.T, axis=1, kind="stable").astype(np.int32)
    tensors = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    about = {
        "format": FORMAT,
        "kind": kind,
        "model": name,
        "config": {"image": _fields(golden.config.image), "text": _fields(golden.config.text)},
        "texts": golden.texts,
        "pieces": golden.origin.get("pieces", []),
        "pictures": [tap for tap in golden.before if tap.startswith(DECODED)],
        "resized": RESIZED if RESIZED in golden.before else None,
        "levels": _levels(checks),
        "provenance": {
            "npsiglip": __version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
            "weights": weights_hash(params),
            "tensors": {name: hash_of(value) for name, value in tensors.items()},
        },
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        _model_files(model, folder / MODEL_FILES, name)
        write_tensors(folder, kind, tensors, checks, about)
        (folder / PACK).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error})") from None
    return checks


def _fields(tower: ImageConfig | TextConfig | None) -> dict[str, Any] | None:
    return asdict(tower) if tower else None
