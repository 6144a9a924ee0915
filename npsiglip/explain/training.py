"""Panel 11: the curve of a training, and where the probe looks at several checkpoints of it.

What is shown without being asked for is npsiglip/data/builtin_training.json, made from the runs of the built-in model,
each of which goes on from the one before, by

    python -m npsiglip.explain.training RUN ... --checkpoint FOLDER ... --picture FILE CAPTION ... --about TEXT

and with --more for later runs, whose curve and checkpoints go on from those that are there.
"""

from __future__ import annotations

import argparse
import json
from base64 import b64decode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import npsiglip
from npsiglip.errors import InputError
from npsiglip.explain.arrays import png
from npsiglip.images.decode import to_rgb
from npsiglip.json_files import read_json
from npsiglip.model import SigLIP
from npsiglip.train.metrics_log import read_metrics
from npsiglip.world import World

FILE = Path(npsiglip.__file__).parent / "data" / "builtin_training.json"
POINTS = 160  # of a curve
NO_ACCURACY = ("step", "seconds")
PROBE = "image.map_head.attn.probs"


def curve(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The loss and the accuracies by steps, of the lines of metrics.jsonl; the loss as means over equal stretches.

    Raises:
        InputError: no line with a loss.
    """
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    if not losses:
        raise InputError("the run's metrics.jsonl has no line with a loss: expected the folder of `npsiglip train`")
    parts = np.array_split(np.array(losses, np.float64), min(POINTS, len(losses)))
    measured = [line for line in lines if "loss" not in line]
    keys = dict.fromkeys(key for line in measured for key in line if key not in NO_ACCURACY)
    return {
        "loss": [[int(part[-1, 0]), float(part[:, 1].mean())] for part in parts],
        "accuracy": {key: [[line["step"], line[key]] for line in measured if key in line] for key in keys},
    }


def step_of(folder: Path) -> int:
    """The number in a checkpoint's name, such as step00400; 0 if there is none."""
    digits = "".join(letter if letter.isdigit() else " " for letter in folder.name).split()
    return int(digits[-1]) if digits else 0


def probes(folders: Sequence[Path], images: Any) -> list[dict[str, Any]]:
    """Where the probe of each checkpoint looks in each image, the mean of its heads: rows of L numbers."""
    found = []
    for folder in sorted(folders, key=step_of):
        attention = SigLIP.from_pretrained(folder).trace(images=images)[PROBE][:, :, 0].mean(axis=1)  # [N, L]
        found.append({"step": step_of(folder), "probes": np.round(attention.astype(np.float64), 5).tolist()})
    return found


@cache
def default() -> dict[str, Any]:
    """What comes with the package; {} where it does not."""
    return read_json(FILE)


def training(run: Path | None, checkpoints: Sequence[Path], image: Any, shown: str) -> dict[str, Any]:
    """What panel 11 shows.

    Args:
        run: the folder of a training; None: the one that comes with the package.
        checkpoints: model folders of that training, whose names end in their steps.
        image: the page's picture, in which their probes look.
        shown: it, as a URL.

    Raises:
        InputError: a run without metrics.
        CheckpointError: a checkpoint that cannot be used.
    """
    if run is None and not checkpoints:
        return default()
    found: dict[str, Any] = {"about": "", "loss": [], "accuracy": {}, "pictures": [], "checkpoints": []}
    if run is not None:
        found |= curve(read_metrics(run)) | {"about": f"The run in the folder {run.name}."}
    if checkpoints:
        found |= {"pictures": [{"picture": shown, "caption": ""}], "checkpoints": probes(checkpoints, [image])}
    return found


def examples(count: int = 3) -> tuple[list[Any], list[str]]:
    """Pictures in which the checkpoints of the default look, and their captions."""
    world = World(seed=4, image_size=96, split="test", mix={"single": 1.0}, plain=1.0, languages=0.0, difficulty=0.3)
    drawn = [world.sample(i) for i in range(count)]
    return [np.asarray(one.image) for one in drawn], [one.caption for one in drawn]


def joined(first: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """Two curves of trainings of which the second goes on from the first, their steps counted through."""
    before = first["loss"][-1][0]
    later = {key: [[before + step, value] for step, value in points] for key, points in then["accuracy"].items()}
    return {
        "loss": first["loss"] + [[before + step, loss] for step, loss in then["loss"]],
        "accuracy": {
            key: first["accuracy"].get(key, []) + later.get(key, [])
            for key in dict.fromkeys([*first["accuracy"], *later])
        },
    }


def in_a_row(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of metrics of runs that go on from each other, their steps counted through."""
    lines: list[dict[str, Any]] = []
    for run in runs:
        before = lines[-1]["step"] if lines else 0
        lines += [line | {"step": before + line["step"]} for line in read_metrics(run)]
    return lines


def main() -> None:
    """Write the default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[])
    parser.add_argument("--picture", nargs=2, action="append", metavar=("FILE", "CAPTION"))
    parser.add_argument("--about", default="")
    parser.add_argument("--more", action="store_true", help="go on from what there is, with its pictures")
    given = parser.parse_args()
    found: dict[str, Any] = {"about": given.about}
    before = default() if given.more else {}
    if given.more:
        found |= {"pictures": before["pictures"]} | joined(before, curve(in_a_row(given.run)))
        urls = [one["picture"] for one in before["pictures"]]
        images = [np.asarray(to_rgb(b64decode(url.partition(",")[2]), "picture")) for url in urls]
    else:
        images, captions = examples()
        if given.picture:
            images = [np.asarray(to_rgb(file, file)) for file, _ in given.picture]
            captions = [caption for _, caption in given.picture]
        drawn = [{"picture": png(image), "caption": caption} for image, caption in zip(images, captions, strict=True)]
        found |= {"pictures": drawn} | curve(in_a_row(given.run))
    found["checkpoints"] = before.get("checkpoints", []) + probes(given.checkpoint, images)
    FILE.write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
