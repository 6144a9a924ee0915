"""A measurement as tables, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table

from npsiglip.bench.results import CaseResult, Report, Timing
from npsiglip.bench.stats import Summary

if TYPE_CHECKING:
    from npsiglip.bench.kernels import KernelReport


def _tower(name: str, sizes: dict[str, Any]) -> str:
    order = ("width", "depth", "num_heads", "mlp_dim", "image_size", "patch_size", "seq_len", "vocab_size")
    return f"{name} tower: " + ", ".join(f"{key} {sizes[key]}" for key in order if key in sizes)


def _machine_line(machine: dict[str, Any]) -> str:
    load = machine["load_average"]
    busy = "" if load is None else f", load average before the start {load:.2f}"
    return f"{machine['cpu']}, {machine['cores']} cores ({machine['architecture']}, {machine['system']}){busy}"


def header(report: Report) -> Iterator[str]:
    """The machine, the model and the versions, a line each."""
    model = report.model
    yield _machine_line(report.machine)
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


def _unit(report: Report) -> str:
    """Of arithmetic in a second."""
    return "GOP/s" if report.dtype == "int8" else "GFLOP/s"


def timings(report: Report) -> Table:
    """Every engine in every case."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("case", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for title in ("median ms", "quartiles", "min", "ours / it", "in each round", _unit(report), "of limit", "apart"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in report.cases:
        for i, timing in enumerate(result.timings):
            table.add_row("" if i else result.case, *_row(timing))
    return table


def _limit_row(result: CaseResult, name: str, report: Report) -> list[str]:
    what, threads = name.split(":")
    value = result.limits[name]
    arithmetic = f"{report.dtype} multiply-add", _unit(report)
    title, unit = {"multiply_add": arithmetic, "read": ("read memory", "GB/s")}[what]
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
            table.add_row("" if i else result.case, *_limit_row(result, name, report))
    return table


NOTES = """\
ours / it: the ratio of the medians; below 1, npsiglip is faster. In each round: the median of the rounds' ratios,
and their quartiles. GFLOP/s, GOP/s: two operations for each term of the model's matrix products. Of limit: of the
multiply-adds on registers that as many threads did between these runs. Apart: the relative L2 of the embeddings to ours
in float32."""


def kernel_header(report: KernelReport) -> Iterator[str]:
    """The machine, the dtype and the model, a line each."""
    yield _machine_line(report.machine)
    yield f"{report.dtype}, {report.threads} threads, {report.rounds} rounds; kernels in the shapes of {report.name}"


def kernel_table(report: KernelReport) -> Table:
    """Every kernel of every case, and the fraction of what registers do in its element type around each run."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("case", "kernel", "shape"):
        table.add_column(title, no_wrap=True)
    for title in ("median us", "quartiles", "GOP/s", "of limit", "quartiles"):
        table.add_column(title, justify="right", no_wrap=True)
    last = ""
    for t in report.kernels:
        seconds = [f"{1e6 * x:,.1f}" for x in (t.seconds.median, t.seconds.q1, t.seconds.q3)]
        cells = [seconds[0], f"{seconds[1]} - {seconds[2]}"]
        if t.rate:
            limit = [f"{100 * x:.1f}" for x in (t.of_limit.median, t.of_limit.q1, t.of_limit.q3)]
            cells += [f"{t.rate / 1e9:,.0f}", f"{limit[0]}%", f"{limit[1]} - {limit[2]}"]
        table.add_row("" if t.case == last else t.case, t.kernel, t.shape, *cells)
        last = t.case
    return table
