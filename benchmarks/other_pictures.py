"""Pictures by another hand, and what a model makes of them: `python benchmarks/other_pictures.py --model FOLDER`.

A model that was trained on procedural pictures may know the renderer rather than the things. So these are drawn with
matplotlib, as one would make flash cards, icons and clip art: one object of one of 8 colours and 8 shapes, in five
styles, on a background that leaves it easy to name. Shapes, palettes and styles are chosen for their own sake; nothing
here looks at npsiglip's own pictures.

The model chooses among the 64 captions "a red circle" ... "a brown moon". Beside that stands its accuracy on
npsiglip's own pictures, if that package is there.

Leaves out: several objects, photos, saturated backgrounds, colours between two names.

Needs matplotlib (`pip install 'npsiglip[train]'`).
"""

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np
from PIL import Image

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from benchmarks.other_hand import CAPTIONS, COLOURS, SHAPES, STYLES, other_pictures, parts, style_of
except ImportError as error:
    if __name__ != "__main__":
        raise
    raise SystemExit(str(error)) from error


def percent(right):
    """Share of true values, with their number."""
    return f"{100 * np.mean(right):.1f}% ({np.sum(right)} of {len(right)})"


def choose(model, images, captions):
    """The caption [N] that the model finds most probable for each image."""
    return model(images, list(captions)).logits_per_image.argmax(1)


def table(title, names, groups, chosen, labels):
    """Lines of a table: of the pictures of group i, which has name i, how often all, colour, and shape are right."""
    lines = ["", f"{title:<10}  {'both':>7}  {'colour':>7}  {'shape':>7}   pictures"]
    measures = (chosen == labels, *(a == b for a, b in zip(parts(chosen), parts(labels), strict=True)))
    for i, name in enumerate(names):
        shares = "  ".join(f"{100 * np.mean(right[groups == i]):6.1f}%" for right in measures)
        lines.append(f"{name:<10}  {shares}   {np.sum(groups == i)}")
    return lines


def taken_for(names, true, chosen, most=6):
    """The most frequent confusions."""
    pairs = Counter((int(a), int(b)) for a, b in zip(true, chosen, strict=True) if a != b).most_common(most)
    return ", ".join(f"{names[a]} for {names[b]} {count} times" for (a, b), count in pairs) or "none for another"


def report(chosen, labels, styles):
    """Top-1 over the 64 captions: of all pictures, by style, shape and colour; and what is taken for what."""
    (colours, shapes), (chosen_colours, chosen_shapes) = parts(labels), parts(chosen)
    lines = table("", ("all",), np.zeros_like(labels), chosen, labels)
    lines += table("style", STYLES, styles, chosen, labels)
    lines += table("shape", SHAPES, shapes, chosen, labels) + table("colour", COLOURS, colours, chosen, labels)
    lines += ["", f"taken, most often: {taken_for(COLOURS, colours, chosen_colours)}"]
    lines += [f"                   {taken_for(SHAPES, shapes, chosen_shapes)}"]
    return "\n".join([*lines, f"                   {taken_for(CAPTIONS, labels, chosen)}"])


def own_pictures(model, count, seed):
    """The model on `count` of npsiglip's own pictures, of either kind; None if that package is not there."""
    try:
        from npsiglip.world import class_captions, zero_shot_pictures
    except ImportError:
        return None
    lines = []
    for held_out in (False, True):
        pictures, labels = zero_shot_pictures(count, held_out, seed, model.config.image.image_size)
        right = choose(model, list(pictures), class_captions()) == labels
        lines.append(f"npsiglip's own pictures, {held_out=!s:<5}:  {percent(right)}")
    return "\n".join(lines)


def write_sheet(file, images, labels, chosen=None, columns=20, side=96):
    """All pictures side by side; where the model is wrong, its caption stands below in red."""
    rows, cell = -(-len(images) // columns), side + 16
    figure = Figure(figsize=(columns * side / 72, rows * cell / 72), dpi=72)
    FigureCanvasAgg(figure)
    for i, image in enumerate(images):
        x, y = (i % columns) * side, (rows - 1 - i // columns) * cell
        figure.figimage(np.asarray(image.resize((side - 4, side - 4), Image.Resampling.BOX)), x + 2, y + 14)
        wrong = chosen is not None and chosen[i] != labels[i]
        shown, colour = (chosen[i], "red") if wrong else (labels[i], "black")
        words = CAPTIONS[shown].split(" ", 1)[1]
        figure.text(
            (x + side / 2) / (columns * side), (y + 3) / (rows * cell), words, size=9, ha="center", color=colour
        )
    figure.savefig(file, dpi=72)


def write_pictures(folder, images, labels, styles):
    """A PNG of each picture, and labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "colour", "shape", "style", "caption"))
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            colour, shape = COLOURS[parts(label)[0]], SHAPES[parts(label)[1]]
            style = tuple(STYLES)[styles[i]]
            name = f"{i:04}-{colour}-{shape}-{style}.png"
            image.save(folder / name)
            rows.writerow((name, label, colour, shape, style, CAPTIONS[label]))


def load(model):
    """A SigLIP model by its folder or name."""
    from npsiglip import NpsiglipError, SigLIP

    try:
        return SigLIP.from_pretrained(model)
    except NpsiglipError as error:
        raise SystemExit(f"error: {error}") from error


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FOLDER", help="folder or name of a model; without, pictures are only drawn")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where to write the pictures and labels.csv")
    parser.add_argument("--sheet", metavar="PNG", type=Path, help="all pictures on one, wrong answers in red")
    parser.add_argument("--count", type=int, default=5, help="pictures of each of the 64 classes (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count must be at least 1, got {options.count}")
    if not (options.model or options.out or options.sheet):
        parser.error("nothing to do: give --model, --out or --sheet")
    model, chosen = load(options.model) if options.model else None, None
    images, labels = other_pictures(options.count, options.seed)
    styles = style_of(labels, np.tile(np.arange(options.count), len(CAPTIONS)))
    if options.out:
        write_pictures(options.out, images, labels, styles)
    if model:
        chosen = choose(model, images, CAPTIONS)
        print(f"pictures by another hand, {len(CAPTIONS)} captions:  {percent(chosen == labels)}")
        print(own_pictures(model, len(labels), options.seed) or "npsiglip's own pictures: npsiglip.world is not there")
        print(report(chosen, labels, styles))
    if options.sheet:
        write_sheet(options.sheet, images, labels, chosen)


if __name__ == "__main__":
    main()
