"""Pictures of the tests that are in the sources as well: told at the start of a run, since what they measure is memory.

Nothing is left out for it, and no weight changes. It looks at pictures for the seconds of `run.duplicate_seconds` at
most: the tests have half of them, and what is looked at of larger collections is drawn at random. Sources are opened
anew for it, without what augmentation does to strokes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from npsiglip.evaluation.duplicates import Looks, looks_of, same
from npsiglip.pairs.base import Pairs
from npsiglip.pairs.opening import of_class, open_pairs
from npsiglip.pairs.settings import AugmentSettings, SourceSettings
from npsiglip.train.config import Config
from npsiglip.train.progress import Watcher


class _Seen(NamedTuple):
    """A source or a test, and what its pictures look like."""

    name: str
    pairs: Pairs
    looks: Looks


def _look(listed: Sequence[SourceSettings], where: str, end: float) -> list[_Seen]:
    """At the pictures of all of them but the world, each with an equal share of the time that is left."""
    own = [(i, settings) for i, settings in enumerate(listed) if settings.kind != "world"]
    found = []
    for left, (i, settings) in zip(range(len(own), 0, -1), own, strict=True):
        pairs = open_pairs(replace(settings, augment=AugmentSettings()), f"{where}[{i}]")  # as they are
        seconds = max(0.0, end - time.monotonic()) / left
        looks = looks_of(pairs, of_class(pairs, settings), seconds)
        found.append(_Seen(settings.name or settings.kind, pairs, looks))
    return found


def report_duplicates(config: Config, watcher: Watcher) -> None:
    """Tell of each test and source that have pictures in common, and how much was looked at if it was not everything.

    Raises:
        InputError: a source or test that cannot be opened.
    """
    data, seconds, start = config.data, config.run.duplicate_seconds, time.monotonic()
    if not seconds or all(test.kind == "world" for test in data.tests):
        return
    if all(source.kind == "world" for source in data.sources):
        return
    watcher.say("Looking for pictures that are in sources and in tests")
    tests = _look(data.tests, "data.tests", start + seconds / 2)
    sources = _look(data.sources, "data.sources", start + seconds)
    for test in tests:
        for source in sources:
            if found := same(test.looks, source.looks):
                first, other = found[0]
                watcher.tell(
                    f"duplicates: {len(found):,} of {len(test.looks.index):,} pictures of the test {test.name!r} are "
                    f"in the source {source.name!r} as well, or nearly: {test.pairs.where(first)} is "
                    f"{source.pairs.where(other)}; what is measured on them is no answer for new pictures"
                )
    looked, total = (sum(getattr(seen.looks, key) for seen in (*tests, *sources)) for key in ("looked", "total"))
    if looked < total:
        watcher.tell(f"duplicates: {looked:,} of {total:,} pictures were looked at (run.duplicate_seconds {seconds:g})")
