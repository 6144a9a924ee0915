"""`npsiglip bench`: how fast, beside others and beside what the machine can do?"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import UsageError, err, out, warn
from npsiglip.cli.output import check_stdout, finite, results, to_json
from npsiglip.errors import InputError

if TYPE_CHECKING:
    from npsiglip.bench.cases import Case
    from npsiglip.bench.results import Report
    from npsiglip.config import SigLIPConfig

DEFAULT_VARIANT = "siglip-base-patch16-224"
SEED = 20230327
BUSY = 0.5  # processes
WIDE = 200  # columns


class _Progress:
    """Stages and their details on a terminal's one line; elsewhere a line for each stage."""

    def __init__(self, activity: Activity) -> None:
        self.activity, self.stage = activity, ""

    def __call__(self, stage: str, detail: str = "") -> None:
        self.activity.say(f"{stage}: {detail}" if detail else stage)
        if stage != self.stage and not (sys.stderr.isatty() and err().is_interactive):
            print(f"{stage} ...", file=sys.stderr, flush=True)
        self.stage = stage


@contextlib.contextmanager
def _random_folder(name: str, config: SigLIPConfig, progress: _Progress) -> Iterator[str]:
    """A model folder with random weights, deleted afterwards."""
    from npsiglip.params import random_params
    from npsiglip.save import save_folder

    with tempfile.TemporaryDirectory(prefix="npsiglip-bench-") as folder:
        progress(f"random weights for {name}")
        save_folder(folder, config, random_params(config, SEED))
        yield folder


def _print(report: Report) -> None:
    from npsiglip.bench import report as tables

    out().width = max(out().width, WIDE)  # Rich cuts a table's cells to the width
    for line in tables.header(report):
        out().print(line)
    for table in (tables.timings(report), tables.limits(report)):
        out().print()
        out().print(table)
    out().print()
    out().print(tables.NOTES)


def _bench_kernels(
    config: SigLIPConfig, cases: list[Case], dtype: str, threads: int, rounds: int, name: str, as_json: bool
) -> None:
    from npsiglip.bench.kernels import time_kernels
    from npsiglip.bench.report import kernel_header, kernel_table

    with Activity() as activity:
        report = time_kernels(config, cases, dtype, threads, rounds, _Progress(activity), name)
    with results():
        if as_json:
            print(to_json(finite(asdict(report)), indent=2))
            return
        out().width = max(out().width, WIDE)
        for line in kernel_header(report):
            out().print(line)
        out().print()
        out().print(kernel_table(report))


def bench(
    model: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Model folder in Hugging Face's format.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Without --model: random weights in the shapes of this released model.",
            show_default=DEFAULT_VARIANT,
        ),
    ] = None,
    peers: Annotated[
        list[str],
        typer.Option(
            "--peer",
            metavar="NAME",
            help="Who else is timed: transformers, onnxruntime, openvino, or all that are there. Give several.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  Typer copies it
    peer_python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The Python that has the peers' packages.", show_default="this one"),
    ] = None,
    cases: Annotated[
        list[str],
        typer.Option(
            "--case",
            metavar="TOWER:BATCH",
            help="What is timed, such as image:8 or text:32. Give several.",
            show_default="image:1, text:1",
        ),
    ] = [],  # noqa: B006
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="What the engines compute in: float32, bfloat16 or int8.")
    ] = "float32",
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Time the kernels of a block, one by one, instead of the towers.")
    ] = False,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads that each engine runs on.")] = 2,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds, of one run for each engine.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON, with every run.")] = False,
) -> None:
    """Time the towers, in alternation with other implementations and with what the machine can do at best."""
    if model is not None and variant is not None:
        raise UsageError("give --model or --variant, not both")
    check_stdout()
    from npsiglip.bench.cases import default_cases, parse_case
    from npsiglip.bench.machine import check_threads
    from npsiglip.bench.measure import bench as measure
    from npsiglip.bench.peers import choose_peers
    from npsiglip.checkpoint import Checkpoint
    from npsiglip.dtypes import check_dtype
    from npsiglip.formats.told import HUGGING_FACE
    from npsiglip.hub.resolve import model_folder
    from npsiglip.variants import variant as variant_config

    check_threads(threads)
    check_dtype(dtype)
    engines, left_out = choose_peers(peers, dtype, peer_python)
    name = model or variant or DEFAULT_VARIANT
    checkpoint = Checkpoint.open(model) if model else None
    if checkpoint and (checkpoint.is_npz or checkpoint.form != HUGGING_FACE) and engines:
        raise InputError(f"other engines cannot read {model}: npsiglip convert {model} FOLDER, and time that")
    config = checkpoint.config if checkpoint else variant_config(name)
    parsed = [parse_case(case, config) for case in dict.fromkeys(cases)] or default_cases(config)
    if kernels:
        if peers:
            raise UsageError("--kernels are npsiglip's own, nobody else can be timed: leave --peer out")
        _bench_kernels(config, parsed, dtype, threads, runs, name, as_json)
        return
    with Activity() as activity:
        progress = _Progress(activity)
        with (
            contextlib.nullcontext(str(model_folder(model)))
            if model
            else _random_folder(name, config, progress) as folder
        ):
            report = measure(
                folder, config, parsed, runs, engines,
                threads=threads, say=progress, dtype=dtype, name=name, left_out=left_out,
            )  # fmt: skip
    busy = report.machine["load_average"]
    if busy is not None and busy > BUSY:
        warn(f"others were using the machine (load average {busy:.1f}): the times may not repeat")
    with results():
        if as_json:
            print(to_json(finite(asdict(report)), indent=2))
        else:
            _print(report)
