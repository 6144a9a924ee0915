"""What a mistake is, and the list that mistakes are entered in: by `mistakes_blocks` and `mistakes_ends`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from npsiglip.verify.operations import Forward, Op


class Mistake(NamedTuple):
    """What is wrong, in a few words; which operations are how; and what these read beside their inputs."""

    name: str
    summary: str
    changes: dict[str, Forward]
    reads: tuple[str, ...] = ()

    def change(self, op: Op) -> Forward | None:
        """The operation as the port has it, if this mistake is in it."""
        return next((forward for taps, forward in self.changes.items() if fnmatchcase(op.tap, taps)), None)


CATALOGUE: list[Mistake] = []


def add(name: str, summary: str, changes: dict[str, Forward], reads: tuple[str, ...] = ()) -> None:
    """Enter a mistake."""
    CATALOGUE.append(Mistake(name, summary, changes, reads))
