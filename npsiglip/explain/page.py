"""One file of HTML that needs nothing else: the panels as they stand, the data, and what brings them to life."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from npsiglip.errors import InputError
from npsiglip.explain.arrays import png
from npsiglip.explain.gather import can_live, check_model, gather, naive_resize
from npsiglip.explain.panels import PANELS, Panel
from npsiglip.explain.source import lines_of
from npsiglip.explain.static import Static, number, probability, shade, training_shot
from npsiglip.explain.training import training
from npsiglip.model import SigLIP
from npsiglip.verify.golden import RESIZED, Golden
from npsiglip.verify.operations import PIXELS

_IMPORT = re.compile(r'^import (?:\{ (?P<names>[^}]*) \}|\* as (?P<space>\w+)) from "(?P<place>[^"]*)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.MULTILINE)


def asset(name: str) -> str:
    """A file beside this one, such as live/model.js."""
    return files("npsiglip.explain").joinpath(*name.split("/")).read_text(encoding="utf-8")


def bundle(entry: str = "view/main.js") -> str:
    """The modules that an entry imports, and itself, as one script: each becomes a function that gives its exports."""
    done: dict[str, str] = {}
    parts: list[str] = []

    def add(name: str) -> str:
        if name in done:
            return done[name]
        text = asset(name)
        variable = done[name] = "module_" + re.sub(r"\W", "_", name.removesuffix(".js"))

        def imported(match: re.Match[str]) -> str:
            folder = name.rsplit("/", 1)[0]
            place = match["place"]
            other = add(place[3:] if place.startswith("../") else f"{folder}/{place[2:]}")
            return f"const {match['space'] or '{ ' + match['names'] + ' }'} = {other};"

        exported = _EXPORT.findall(text)
        text = _EXPORT.sub("", _IMPORT.sub(imported, text))
        parts.append(f"const {variable} = (() => {{\n{text}\nreturn {{ {', '.join(exported)} }};\n}})();")
        return variable

    add(entry)
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "\n})();"


def embedded(text: str) -> str:
    """A text that can stand in a script: nothing in it ends the script."""
    return text.replace("<", "\\u003c")


def _code(panel: Panel) -> str:
    found = [lines_of(function) for function in panel.functions]
    blocks = "".join(
        f'<p class="soft"><code>{escape(one.file)}</code>, line {one.number}</p>'
        f'<pre tabindex="0"><code>{escape(one.text)}</code></pre>'
        for one in found
    )
    return f"<details><summary>The NumPy that computes it</summary>{blocks}</details>"


def _live(text: str) -> str:
    return f'<span class="live-only"> {escape(text)}</span>' if text else ""


def _section(panel: Panel, static: Static) -> str:
    taps = " ".join(f"<code>{escape(tap)}</code>" for tap in panel.taps)
    return (
        f'<section class="panel card" id="{panel.anchor}" aria-labelledby="title-{panel.number}"><header>'
        f'<span class="count" aria-hidden="true">{panel.number}</span><h2 id="title-{panel.number}">'
        f"{escape(panel.title)}</h2><p>{escape(panel.sentence)}</p></header>"
        f'<div class="view">{static.panel(panel.number)}</div>'
        f'<div class="notes"><p class="tip"><b>Look for.</b> {escape(panel.look)}</p>'
        f'<div class="ask"><b>Try.</b> {escape(panel.question)}{_live(panel.question_live)}<details>'
        f"<summary>How to tell</summary>{escape(panel.answer)}{_live(panel.answer_live)}</details>"
        f'</div><p class="soft">Taps: {taps}</p>{_code(panel)}</div></section>'
    )


def _hero(data: dict[str, Any], static: Static) -> str:
    t, bias = math.exp(data["t_prime"]), data["bias"]
    look = shade(static.arrays["probe"].mean(axis=0), data["rows"], data["columns"])
    aspect = f"{data['picture']['width']}/{data['picture']['height']}"
    labels = "".join(
        f'<li class="label"><span class="name">{escape(label)}</span><span class="prob number">{probability(p)}</span>'
        f'<div class="track"><div class="fill" style="width:{100 * p:.2f}%"></div></div><span class="sum number">'
        f"cosine {number(cosine, 4)} \N{MULTIPLICATION SIGN} {number(t, 1)} {'+' if bias >= 0 else chr(0x2212)} "
        f"{abs(bias):.1f} = {number(logit)}</span></li>"
        for label, cosine, logit, p in zip(data["labels"], data["cosines"], data["logits"], data["probs"], strict=True)
    )
    return (
        '<section class="hero card" aria-labelledby="hero-title"><div><div class="look"><div class="map light" '
        f'style="aspect-ratio:{aspect}" role="img" aria-label="the picture; light is where the probe looks"><img '
        f'class="below" alt="" src="{data["picture"]["shown"]}"><img alt="" src="{look}"></div></div>'
        '<p class="soft">Light: where the probe of the MAP head looks, the mean of its heads, smoothed.</p>'
        '<div id="tools"></div></div><div><h2 id="hero-title">Does this text belong '
        f'to this picture?</h2><ol class="labels">{labels}</ol><div class="tools live-only" id="more"></div>'
        '<p id="say" role="status" aria-live="polite"></p></div></section>'
    )


def _lanes(data: dict[str, Any]) -> str:
    image, text = data["config"]["image"], data["config"]["text"]
    tokens, patch = data["rows"] * data["columns"], image["patch_size"] ** 2 * 3
    lanes = (
        (
            "image",
            (1, "pixels", f"3 x {image['image_size']} x {image['image_size']}"),
            (2, "patches", f"{tokens} x {patch}"),
            (3, "+ positions", f"{tokens} x {image['width']}"),
            (4, f"{image['depth']} blocks: attention", f"{image['num_heads']} heads"),
            (6, "residual stream", f"{tokens} x {image['width']}"),
            (5, "MAP head", f"1 x {image['width']}"),
        ),
        (
            "text",
            (7, "pieces and ids", f"{text['seq_len']}"),
            (7, f"{text['depth']} blocks", f"{text['seq_len']} x {text['width']}"),
            (7, "last place, head", f"1 x {text['projection_dim']}"),
        ),
        (
            "both",
            (8, "cosine, t, bias, sigmoid", "a probability"),
            (9, "loss", "N x N questions"),
            (10, "fewer bits", "float32, bfloat16, int8"),
            (11, "training", "how it came about"),
        ),
    )
    drawn = "".join(
        f'<ol class="lane{"" if name == "both" else " arrows"}" aria-label="{name}">'
        + "".join(
            f'<li><a href="#panel-{i}"><b>{i}</b>{escape(title)}<small>{escape(shape)}</small></a></li>'
            for i, title, shape in stages
        )
        + "</ol>"
        for name, *stages in lanes
    )
    return f'<nav class="lanes" aria-label="the way of a picture and a text">{drawn}</nav>'


def render(data: dict[str, Any], live: dict[str, str], static: Static) -> str:
    """The page of what was gathered."""
    scripts = [
        f'<script type="application/json" id="npsiglip-data">{embedded(json.dumps(data, allow_nan=False))}</script>'
    ]
    scripts += [f'<script type="text/plain" id="npsiglip-{name}">{text}</script>' for name, text in live.items()]
    scripts += [f"<script>{bundle()}</script>"]
    shots = "".join(
        f" .{training_shot(place)} {{ background-image: url({one['picture']}); }}"
        for place, one in enumerate((data["training"] or {}).get("pictures", ()))
    )
    title = f"SigLIP, seen: {', '.join(data['labels'])}"
    many = f"{data['parameters'] / 1e6:.1f} million parameters"
    said = "The model is in this page and runs in it." if live else "Made from a trace; the model is not in the page."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{asset('view/style.css')}.shot {{ background-image: url({data['picture']['resized']}); }}"
        f"{shots}</style>"
        "</head><body>\n"
        f'<header class="top"><h1>SigLIP, seen</h1><p>{escape(str(data["model"]))}, {many}. {said} '
        '<span class="live-only">Change a label, the picture, anything<output id="time"></output>.</span>'
        "</p></header>\n<main>"
        f"{_hero(data, static)}\n{_lanes(data)}\n"
        + "\n".join(_section(panel, static) for panel in PANELS)
        + "</main>\n"
        f'<footer><p id="proof"></p><p>Made by npsiglip {escape(data["npsiglip"])} from a float64 trace of the model; '
        "words and names as in its glossary. Maps are drawn from zero to the largest of what they show.</p>"
        '<p class="no-js">Without JavaScript the panels stand as they were made.</p></footer>\n'
        + "\n".join(scripts)
        + "\n</body></html>\n"
    )


def explain(
    model: SigLIP,
    image: Any,
    labels: Sequence[str],
    texts: Sequence[str],
    *,
    template: str = "{}",
    name: str = "",
    live: bool | None = None,
    run: Path | None = None,
    checkpoints: Sequence[Path] = (),
) -> str:
    """A page of HTML that shows what a model does with a picture and labels.

    Args:
        model: with both towers and a MAP head; not NaFlex.
        image: as for `SigLIP.encode_image`, one.
        labels: at least one; and `texts`, the same put into `template`.
        texts: see `labels`.
        template: with {} for the label.
        name: of the model, as the page has it.
        live: whether the page carries the model and computes with it; None: if it is small enough.
        run: the folder of a training, for panel 11; None: what comes with the package.
        checkpoints: model folders of that training.

    Raises:
        InputError: a model, an image or labels that cannot be used.
    """
    check_model(model)
    if live and not can_live(model):
        raise InputError(
            "the model cannot run in a page: expected a folder with spiece.model, at most 8 million parameters, GELU "
            "by tanh, and a bilinear or bicubic resize; make the page without it (--no-live)"
        )
    golden = Golden(model, [image], list(texts), name)
    resized = golden.before[RESIZED][0]
    naive = naive_resize(golden.before["image.decoded.0"], *golden.inputs[PIXELS].shape[2:])
    story = training(run, checkpoints, image, png(resized))
    data, carried = gather(golden, model, labels, template, name, can_live(model) if live is None else live, story)
    return render(data, carried, Static(data, resized, naive))
