"""Sources of any kind, opened as their settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from npsiglip.pairs.base import Pairs
from npsiglip.pairs.drawings import open_drawings
from npsiglip.pairs.emoji import open_emoji
from npsiglip.pairs.folders import open_captions, open_classes
from npsiglip.pairs.settings import SourceSettings
from npsiglip.pairs.tars import open_tars


def open_pairs(settings: SourceSettings, where: str) -> Pairs:
    """Open a source of any kind but the world.

    Raises:
        InputError: files that are not there, cannot be read or hold nothing.
    """
    openers: Mapping[str, Callable[[SourceSettings, str], Pairs]] = {
        "captions": open_captions,
        "classes": open_classes,
        "webdataset": open_tars,
        "emoji": open_emoji,
        "drawings": open_drawings,
    }
    return openers[settings.kind](settings, where)


def of_class(pairs: Pairs, settings: SourceSettings) -> list[int]:
    """The indices that `settings.of_class` leaves, in the order of the source."""
    if settings.of_class is None:
        return list(range(len(pairs)))
    first, end = settings.of_class
    seen: dict[str | None, int] = {}
    left = []
    for index in range(len(pairs)):
        kind = pairs.class_of(index)
        number = seen[kind] = seen.get(kind, -1) + 1
        if first <= number < end:
            left.append(index)
    return left
