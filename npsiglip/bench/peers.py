"""Which engines there are, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from npsiglip.bench.process import engine_command
from npsiglip.errors import InputError


@dataclass(frozen=True)
class Engine:
    """A name for reports, a command that speaks the worker's protocol, and what it needs."""

    name: str
    command: Sequence[str]
    install: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


class Peer(NamedTuple):
    """A module of `npsiglip.bench.engines`, how its packages are installed, and its environment variables."""

    module: str
    install: str
    environment: Mapping[str, str]


PEERS = {"transformers": Peer("peer_transformers", "pip install 'npsiglip[bench]'", {"HF_HUB_OFFLINE": "1"})}


def own_engine() -> Engine:
    """Npsiglip, in this environment."""
    return Engine("npsiglip", engine_command("own", sys.executable))


def limits_engine() -> Engine:
    """The loops that measure the machine."""
    return Engine("limits", engine_command("limits", sys.executable))


def peer_engine(name: str, python: str | None = None) -> Engine:
    """A peer, run by `python` or by this Python.

    Raises:
        InputError: a name that is not known.
    """
    if name not in PEERS:
        raise InputError(f"peer {name!r} is not known; expected one of: {', '.join(PEERS)}")
    peer = PEERS[name]
    return Engine(name, engine_command(peer.module, python or sys.executable), peer.install, peer.environment)
