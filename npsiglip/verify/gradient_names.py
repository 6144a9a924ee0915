"""A candidate's gradients under our parameters' names and in our axes, as they are found in checkpoints of each format.

A gradient lies as its parameter does, so the tables of `npsiglip.formats` are what is needed: transposed weights, q, k
and v in one tensor, heads apart, stacked blocks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.formats.big_vision_names import form_of, npz_layouts
from npsiglip.formats.hf_names import layouts
from npsiglip.formats.openclip_names import openclip_layouts
from npsiglip.formats.stored import Layout
from npsiglip.params import param_shapes
from npsiglip.verify.backward import LOSS
from npsiglip.verify.layouts import arrangements
from npsiglip.verify.names import bare
from npsiglip.verify.replay import distance, norm

Array = NDArray[Any]
_MARKS = re.compile(r"^(?:grad|grads|gradients)[./]|\.grad$|^params[./]")
SCHEMES = {"npsiglip": ("npsiglip",), "hf": ("hf",), "timm": ("timm", "timm alone"), "big_vision": ("big_vision",)}


class Found(NamedTuple):
    """Where a candidate's gradients are: whose names, our parameter -> their name and its place, the loss's name.

    `beside`: names of the same parameters that are not taken for gradients, since others say that they are.
    """

    scheme: str
    places: dict[str, tuple[str, Layout]]
    loss: str | None
    beside: frozenset[str] = frozenset()

    @property
    def names(self) -> set[str]:
        """Of all gradients, and of the loss."""
        return {theirs for theirs, _ in self.places.values()} | ({self.loss} if self.loss else set())


class Shown(NamedTuple):
    """A candidate's gradients.

    Attributes:
        grads: our parameter -> its gradient, float64.
        loss: the loss, or None.
        assumed: what was assumed, in words.
        wrong: what has another shape.
    """

    grads: dict[str, Array]
    loss: float | None
    assumed: list[str]
    wrong: list[str]


def plain(name: str) -> str:
    """Without what says that it is a gradient, and without what wrappers put in front."""
    name = name.strip("/")
    while (shorter := _MARKS.sub("", name)) != name:
        name = shorter
    return bare(name)


def is_marked(name: str) -> bool:
    """Whether a name says that it is of a gradient."""
    return bool(_MARKS.search(name.strip("/"))) and not name.strip("/").startswith("params")


def _places(config: SigLIPConfig, names: list[str]) -> Iterator[tuple[str, dict[str, Layout]]]:
    """Each scheme's place of each parameter; keys as `plain` leaves them."""
    own = {name: Layout(name, shape, lambda x: x) for name, shape in param_shapes(config).items()}
    stacked = form_of([f"{name.replace('.', '/')}/" for name in names]).stacked
    for scheme, places in (
        ("npsiglip", own),
        ("hf", layouts(config)),
        ("timm", openclip_layouts(config, "visual.trunk.")),
        ("timm alone", openclip_layouts(config, "")),
        ("big_vision", npz_layouts(config, stacked)),
    ):
        yield scheme, {name: Layout(bare(at.key), at.shape, at.view) for name, at in places.items()}


def _own_axes(x: Array, truth: Array) -> tuple[str, Array] | None:
    """Under our own names: our axes, unless in another order it is far nearer to the truth."""
    ways = list(arrangements(x, truth.shape))
    if not ways:
        return None
    unit = norm(truth)
    best = min(ways, key=lambda way: distance(way[1], truth, unit))
    return best if ways[0][0] or distance(best[1], truth, unit) < 0.1 * distance(ways[0][1], truth, unit) else ways[0]


def find_gradients(candidate: Collection[str], config: SigLIPConfig, names: str, taps: set[str]) -> Found | None:
    """Which of a candidate's tensors are the loss and gradients; None if none is.

    Args:
        candidate: its names, those of taps among them.
        config: of the model.
        names: whose names these are; "auto": whoever's table knows most of them.
        taps: those of its names that are known to be of taps.
    """
    theirs: dict[str, str] = {}
    for name in candidate:
        key, marked = plain(name), is_marked(name)
        if (marked or name not in taps) and (key not in theirs or (marked and not is_marked(theirs[key]))):
            theirs[key] = name
    wanted = None if names == "auto" else SCHEMES.get(names, ())
    best = Found("", {}, theirs.get(LOSS))
    for scheme, places in _places(config, list(theirs)):
        known = {name: (theirs[place.key], place) for name, place in places.items() if place.key in theirs}
        if (wanted is None or scheme in wanted) and len(known) > len(best.places):
            best = best._replace(scheme=scheme.split()[0], places=known)
    # scalars alone, without a word of gradients, are logit_scale and logit_bias themselves
    if any(place.shape not in ((), (1,)) or is_marked(name) for name, place in best.places.values()):
        keys = {place.key for _, place in best.places.values()}
        return best._replace(beside=frozenset(n for n in candidate if plain(n) in keys) - best.names - taps)
    return Found("", {}, best.loss) if best.loss else None


def read_gradients(
    found: Found, candidate: Mapping[str, Any], truth: Mapping[str, Array], params: Mapping[str, Array]
) -> Shown:
    """A candidate's gradients.

    Args:
        found: where they are.
        candidate: names -> arrays.
        truth: parameter -> gradient, float64.
        params: of the model.

    Raises:
        InputError: tensors that hold no numbers.
    """
    shown = Shown({}, None, [], [])
    if found.scheme not in ("", "npsiglip"):
        shown.assumed.append(f"names of gradients are those of {found.scheme}")
    orders: dict[str, str] = {}
    weights: list[str] = []
    for name, (theirs, place) in found.places.items():
        x = _numbers(candidate, theirs)
        if found.scheme != "npsiglip" and (x.shape == place.shape or {x.shape, place.shape} == {(), (1,)}):
            read: tuple[str, Array] | None = ("", place.view(x).reshape(truth[name].shape))
        else:
            read = _own_axes(x, truth[name])
        if read is None:
            shown.wrong.append(f"{theirs} is {list(x.shape)}, and the gradient of {name} {list(truth[name].shape)}")
        elif not is_marked(theirs) and read[1].size > 1 and _is_weight(read[1], params[name]):
            weights.append(theirs)
        else:
            shown.grads[name] = read[1]
            if read[0]:
                orders.setdefault(read[0], name)
    shown.assumed.extend(f"{order}, such as the gradient of {name}" for order, name in orders.items())
    if weights:
        shown.assumed.append(f"{len(weights)} tensors are weights and no gradients, such as {weights[0]}")
        if not any(x.size > 1 for x in shown.grads.values()):
            shown.grads.clear()
    if found.loss is None:
        return shown
    loss = _numbers(candidate, found.loss)
    if loss.size != 1:
        shown.wrong.append(f"{found.loss} is {list(loss.shape)}, and the loss is one number")
        return shown
    return shown._replace(loss=float(loss.reshape(())))


def weights_among(found: Found, candidate: Mapping[str, Any], params: Mapping[str, Array]) -> set[str]:
    """The names of tensors that could be gradients and are the parameters themselves."""
    return {
        theirs
        for name, (theirs, place) in found.places.items()
        if not is_marked(theirs)
        and np.size(x := np.asarray(candidate[theirs])) == np.size(params[name])
        and x.dtype.kind in "fV"
        and _is_weight(np.sort(_numbers(candidate, theirs), axis=None), np.sort(np.ravel(params[name])))
    }


def _numbers(candidate: Mapping[str, Any], name: str) -> Array:
    x = np.asarray(candidate[name])
    if x.dtype.kind not in "fiuV" or x.dtype == np.dtype(object):
        raise InputError(f"{name} holds {x.dtype}; expected numbers")
    return np.asarray(x, np.float64)


def _is_weight(x: Array, weight: Array) -> bool:
    """Whether this is the parameter itself, in whatever precision."""
    weight = np.asarray(weight, np.float64)
    return norm(weight) > 0 and distance(x, weight, norm(weight)) < 0.02
