"""Which engines there are, what each computes in, and how each is started."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from npsiglip.bench.process import engine_command
from npsiglip.errors import InputError

ALL = "all"
INSTALL = "pip install 'npsiglip[bench]'"
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Engine:
    """A name for reports, a command that speaks the worker's protocol, and what it needs."""

    name: str
    command: Sequence[str]
    install: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    exporter: Engine | None = None
    """Writes the towers into the folder that this engine loads; None: this engine loads the model folder itself."""
    optional: bool = False
    """Where a package is missing, the engine is left out, instead of an error."""


class Peer(NamedTuple):
    """A module of `npsiglip.bench.engines`, what it can compute in, and what exports the model for it."""

    module: str
    dtypes: tuple[str, ...]
    exporter: str | None = None


PEERS = {
    "transformers": Peer("peer_transformers", ("float32", "bfloat16")),
    "onnxruntime": Peer("peer_onnxruntime", ("float32", "int8"), "export_onnx"),
    "openvino": Peer("peer_openvino", ("float32", "bfloat16"), "export_onnx"),
}


def own_engine() -> Engine:
    """Npsiglip, in this environment."""
    return Engine("npsiglip", engine_command("own", sys.executable))


def limits_engine() -> Engine:
    """The loops that measure the machine."""
    return Engine("limits", engine_command("limits", sys.executable))


def peer_engine(name: str, python: str | None = None, optional: bool = False) -> Engine:
    """A peer, run by `python` or by this Python.

    Raises:
        InputError: a name that is not known.
    """
    if name not in PEERS:
        raise InputError(f"peer {name!r} is not known; expected one of: {', '.join([*PEERS, ALL])}")
    peer, python = PEERS[name], python or sys.executable
    exporter = None
    if peer.exporter:
        exporter = Engine("the ONNX export", engine_command(peer.exporter, python), INSTALL, ENVIRONMENT)
    return Engine(name, engine_command(peer.module, python), INSTALL, ENVIRONMENT, exporter, optional)


def leave_out(left_out: dict[str, str], name: str, reason: str) -> None:
    """Note and warn that a peer is not timed."""
    left_out[name] = reason
    warnings.warn(f"{name} is left out: {reason}", RuntimeWarning, stacklevel=3)


def choose_peers(names: Sequence[str], dtype: str, python: str | None = None) -> tuple[list[Engine], dict[str, str]]:
    """The peers of these names, for a dtype; and whom "all" left out, with the reasons.

    "all" stands for every peer that computes in the dtype and whose packages are there.

    Raises:
        InputError: a name that is not known, or a peer, given by its name, that does not compute in the dtype.
    """
    engines: list[Engine] = []
    left_out: dict[str, str] = {}
    expanded = [peer for name in names for peer in (PEERS if name == ALL else [name])]
    for name in dict.fromkeys(expanded):
        engine = peer_engine(name, python, optional=name not in names)
        if dtype in PEERS[name].dtypes:
            engines.append(engine)
            continue
        reason = f"it computes in {' or '.join(PEERS[name].dtypes)}, not in {dtype}"
        if not engine.optional:
            raise InputError(f"{name} cannot be timed: {reason}; choose another --dtype, or leave it out")
        leave_out(left_out, name, reason)
    return engines, left_out
