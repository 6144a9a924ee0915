"""A measurement as tables, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from npsiglip.bench.results import CaseResult, Report, Timing
from npsiglip.bench.stats import Summary


def _tower(name: str, sizes: dict[str, Any]) -> str:
    order = ("width", "depth", "num_heads", "mlp_dim", "image_size", "patch_size", "seq_len", "vocab_size")
    return f"{name} tower: " + ", ".join(f"{key} {sizes[key]}" for key in order if key in sizes)


def header(report: Report) -> Iterator[str]:
    """The machine, the model and the versions, a line each."""
    machine, model = report.machine, report.model
    load = machine["load_average"]
    busy = "" if load is None else f", load average before the start {load:.2f}"
    yield f"{machine['cpu']}, {machine['cores']} cores ({machine['architecture']}, {machine['system']}){busy}"
    yield f"{report.dtype}, {report.threads} threads, {report.rounds} rounds"
    yield f"{model['name']}: {model['parameters']:,} parameters"
    yield from (_tower(name, model[name]) for name in ("image", "text") if model[name])
    for name, about in report.engines.items():
        yield f"{name}: " + ", ".join(f"{key} {value}" for key, value in about.items())


def _milliseconds(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.{3 if ms < 10 else 2 if ms < 100 else 1}f}"


def _range(summary: Summary) -> str:
    return f"{_milliseconds(summary.q1)} - {_milliseconds(summary.q3)}"


def _row(timing: Timing) -> list[str]:
    seconds = timing.seconds
    name = f"{timing.engine} ({timing.setting})" if timing.setting else timing.engine
    cells = [name, _milliseconds(seconds.median), _range(seconds), _milliseconds(seconds.min)]
    if timing.ratio:
        rounds = timing.ratio.per_round
        cells += [f"{timing.ratio.of_medians:.3f}", f"{rounds.median:.3f} ({rounds.q1:.3f} - {rounds.q3:.3f})"]
    else:
        cells += ["", ""]
    agreement = "" if timing.agreement is None else f"{timing.agreement:.1e}"
    return [*cells, f"{timing.gflops:.1f}", f"{100 * timing.of_limit:.1f}%", agreement]


def timings(report: Report) -> Table:
    """Every engine in every case."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for title in ("median ms", "quartiles", "min", "ours / it", "in each round", "GFLOP/s", "of limit", "apart"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in report.cases:
        for i, timing in enumerate(result.timings):
            table.add_row("" if i else result.case, *_row(timing))
    return table


def _limit_row(result: CaseResult, name: str) -> list[str]:
    what, threads = name.split(":")
    value = result.limits[name]
    title, unit = {"multiply_add": ("float32 multiply-add", "GFLOP/s"), "read": ("read memory", "GB/s")}[what]
    numbers = [f"{x:.1f}" for x in (value.median, value.q1, value.q3, value.max)]
    return [title, threads, numbers[0], f"{numbers[1]} - {numbers[2]}", numbers[3], unit]


def limits(report: Report) -> Table:
    """What the machine could do, measured between the runs of each case."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("limit", no_wrap=True)
    for title in ("threads", "median", "quartiles", "max"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for result in report.cases:
        for i, name in enumerate(result.limits):
            table.add_row("" if i else result.case, *_limit_row(result, name))
    return table


NOTES = """\
ours / it: the ratio of the medians; below 1, npsiglip is faster. In each round: the median of the rounds' ratios,
and their quartiles. GFLOP/s: two FLOP for each term of the model's matrix products. Of limit: of the multiply-adds on
registers that as many threads did between these runs. Apart: the relative L2 of the embeddings to ours."""
