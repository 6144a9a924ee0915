"""Plants mistakes, one at a time, in a copy of the tree, and sees whether the tests that name the file notice.

    nice -n 19 python tests/mutate.py                         every mistake of tests/mistakes/*.toml, about an hour
    python tests/mutate.py --only 'attention-*' --list        what these are
    python tests/mutate.py --jobs 2 --results runs.jsonl      goes on where a run before it stopped

A mistake that tests fail with is killed. One that no test notices has survived: either it is no fault, and the
catalogue says why (`equivalent`), or a test is missing, and the exit code is 1. Tests are first run without a mistake:
those that fail then would prove nothing.

Why a list of our own and none of the tools. mutmut (3.8) leaves out every function that has a decorator, because it
puts a switch in its place: that is every kernel. mutatest has had no release since 2022. cosmic-ray (8.7) exchanges
operators and numbers wherever it finds them, thousands in the kernels alone, each of which has to be compiled anew; and
the mistakes that matter here are of no such kind: the patches in another order for one size, a mean in float32, an
epsilon that is not the configuration's. So there are few, each is one that somebody could make, and each says what
it is.

The copy is in a temporary folder; the working tree is never written to. Python keeps no bytecode, and machine code goes
into a folder of the copy, a new one for each mistake in a kernel. Hypothesis draws the same examples in every run
(tests/conftest.py). Give it the lowest priority: the tests are as busy as tests are.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "tests/mistakes"
KERNELS = "npsiglip/kernels/"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")

KILLED, SURVIVED, NO_FAULT, BROKEN = "killed", "survived", "no fault", "broken"
BAD = (SURVIVED, BROKEN)
UNCOMPILED = "numba.core.errors."


class CatalogueError(Exception):
    """A mistake that cannot be planted."""


@dataclass(frozen=True)
class Mistake:
    """One entry of the catalogue."""

    name: str
    file: str
    """Where it is planted, from the root of the tree."""
    old: str
    """What stands there, once in the whole file."""
    new: str
    """What the mistake makes of it."""
    tests: tuple[str, ...]
    """What pytest is given, below tests/, fast ones first: "kernels/test_gemm.py::test_linear", "test_loss.py"."""
    why: str
    """What is wrong, in a few words."""
    equivalent: str = ""
    """Why it is no fault, for those that survive rightly."""
    needs: str = ""
    """A module without which its tests are skipped: then it is left out, and said."""
    area: str = ""
    """The catalogue's file, without its ending."""

    def planted(self, text: str) -> str:
        """The file's text with the mistake in it.

        Raises:
            CatalogueError: what it replaces does not stand there exactly once.
        """
        count = text.count(self.old)
        if count != 1:
            raise CatalogueError(
                f"{self.area}.toml: {self.name}: `old` must occur once in {self.file}, and does {count} times: write "
                "it as it stands there now, with enough around it; or remove the mistake if the code is gone"
            )
        return text.replace(self.old, self.new)


def load() -> list[Mistake]:
    """All mistakes, checked against the tree.

    Raises:
        CatalogueError: an entry that has other keys, a name that is there twice, text or tests that are not there.
    """
    found: dict[str, Mistake] = {}
    known = {field.name for field in fields(Mistake)} - {"area"}
    for path in sorted((ROOT / FOLDER).glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8")).get("mistake", ()):
            name = entry.get("name", "?")
            missing, unknown = known - {"equivalent", "needs"} - entry.keys(), entry.keys() - known
            if missing or unknown:
                raise CatalogueError(f"{path.name}: {name}: missing {sorted(missing)}, unknown {sorted(unknown)}")
            if name in found:
                raise CatalogueError(f"{path.name}: {name} is there twice")
            found[name] = Mistake(**{**entry, "tests": tuple(entry["tests"])}, area=path.stem)
            check(found[name])
    return list(found.values())


def check(mistake: Mistake) -> None:
    """That a mistake can be planted, and that its tests are there.

    Raises:
        CatalogueError: it cannot.
    """
    file = ROOT / mistake.file
    if not file.is_file():
        raise CatalogueError(f"{mistake.area}.toml: {mistake.name}: there is no {mistake.file}")
    if mistake.planted(file.read_text(encoding="utf-8")) == file.read_text(encoding="utf-8") or not mistake.tests:
        raise CatalogueError(f"{mistake.area}.toml: {mistake.name} changes nothing, or has no tests")
    for test in mistake.tests:
        place, *names = shlex.split(test)[0].split("[")[0].split("::")
        path = ROOT / "tests" / place
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not text or any(not re.search(rf"\b(def|class) {re.escape(name)}\b", text) for name in names):
            raise CatalogueError(f"{mistake.area}.toml: {mistake.name}: there is no test {test}")


@dataclass(frozen=True)
class Result:
    """What became of a mistake."""

    name: str
    key: str
    """Of the mistake, its file and its tests as they were: a result is used again as long as it is the same."""
    outcome: str
    by: str
    """The test that failed, or what else there is to say."""
    seconds: float


def key_of(mistake: Mistake) -> str:
    """See `Result`."""
    digest = hashlib.sha256(json.dumps(asdict(mistake)).encode())
    for file in (mistake.file, *(f"tests/{re.split('[: ]', test)[0]}" for test in mistake.tests)):
        digest.update((ROOT / file).read_bytes())
    return digest.hexdigest()[:16]


@dataclass
class Verdict:
    """What pytest said."""

    code: int | None
    """Its exit code; None if its time was up."""
    failed: str


class Workshop:
    """A copy of the tree in which one mistake at a time is planted."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self.folder, self.tree, self.timeout = folder, folder / "tree", timeout
        self._process: subprocess.Popen[str] | None = None
        self.closed = False
        shutil.copytree(ROOT, self.tree, ignore=NOT_COPIED)
        place = self._run(["-c", "import npsiglip; print(npsiglip.__file__)"], folder / "kernels")[1].strip()
        if not Path(place).is_relative_to(self.tree):
            raise RuntimeError(f"tests in {self.tree} would run {place!r}: nothing would be planted")

    def _run(self, arguments: list[str], cache: Path) -> tuple[int | None, str]:
        """A Python in the copy: its exit code, None if its time was up, and what it said."""
        environment = os.environ | {
            "PYTHONPATH": str(self.tree),
            "PYTHONDONTWRITEBYTECODE": "1",  # a mistake of the same length in the same second would not be read
            "NUMBA_CACHE_DIR": str(cache),
            "NPSIGLIP_FIRST_FAILURE": "1",
            "COLUMNS": "300",  # of the line that says why a test failed
        }
        self._process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self.tree, env=environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = self._process.communicate(timeout=self.timeout)
            return self._process.returncode, output
        except subprocess.TimeoutExpired:
            self.stop()
            return None, ""

    def stop(self) -> None:
        """End what runs, and what it has started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def test(self, tests: Iterable[str], cache: Path) -> Verdict:
        """Run tests until some fail."""
        verdict = Verdict(0, "")
        for test in tests:
            first, *rest = shlex.split(test)
            code, output = self._run(["-m", "pytest", "-x", "--tb=no", f"tests/{first}", *rest], cache)
            found = re.search(r"^(?:FAILED|ERROR) tests/(.+)", output, re.MULTILINE)
            verdict = Verdict(code, found[1] if found else output.strip()[-200:] if code else "")
            if code != 0:
                break
        return verdict

    def judge(self, mistake: Mistake) -> tuple[str, str]:
        """Plant a mistake and run its tests: the outcome, and by which test."""
        path = self.tree / mistake.file
        before = path.read_text(encoding="utf-8")
        own = self.folder / "own"
        cache = own if mistake.file.startswith(KERNELS) else self.folder / "kernels"
        try:
            path.write_text(mistake.planted(before), encoding="utf-8")
            verdict = self.test(mistake.tests, cache)
        finally:
            path.write_text(before, encoding="utf-8")
            shutil.rmtree(own, ignore_errors=True)
        if verdict.code == 0:
            return (NO_FAULT, mistake.equivalent) if mistake.equivalent else (SURVIVED, mistake.why)
        if UNCOMPILED in verdict.failed:
            return BROKEN, f"it does not compile, which every test notices: {verdict.failed}"
        if verdict.code == 1 or verdict.code is None or verdict.code < 0:  # failed; its time was up; a signal ended it
            how = verdict.failed if verdict.code == 1 else "the time was up" if verdict.code is None else "it crashed"
            return (BROKEN, f"said to be no fault, but noticed: {how}") if mistake.equivalent else (KILLED, how)
        return BROKEN, f"pytest ended with {verdict.code}: {verdict.failed}"


class Baseline:
    """Which tests pass without a mistake; each is run once, by whoever needs it first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[threading.Lock, list[Verdict]]] = {}

    def __call__(self, workshop: Workshop, tests: Iterable[str]) -> str:
        """Empty if all pass, else which does not."""
        for test in tests:
            with self._lock:
                lock, verdicts = self._known.setdefault(test, (threading.Lock(), []))
            with lock:
                if not verdicts:
                    verdicts.append(workshop.test([test], workshop.folder / "kernels"))
            if verdicts[0].code != 0:
                return f"{test} fails without the mistake: {verdicts[0].failed or verdicts[0].code}"
        return ""


class Run:
    """All mistakes that are asked for, over some workshops."""

    def __init__(self, mistakes: list[Mistake], results: Path | None, timeout: float) -> None:
        self.mistakes, self.path, self.timeout = mistakes, results, timeout
        self.results: dict[str, Result] = {}
        self._queue: queue.SimpleQueue[Mistake] = queue.SimpleQueue()
        self._lock, self._baseline = threading.Lock(), Baseline()
        self._keys = {mistake.name: key_of(mistake) for mistake in mistakes}  # of the tree as it is copied
        before = {}
        if results and results.exists():
            lines = results.read_text(encoding="utf-8").splitlines()
            before = {result.name: result for result in (Result(**json.loads(line)) for line in lines)}
        for mistake in mistakes:
            known = before.get(mistake.name)
            if known and known.key == self._keys[mistake.name]:
                self.results[mistake.name] = known
            else:
                self._queue.put(mistake)

    def _work(self, workshop: Workshop) -> None:
        while not workshop.closed:
            try:
                mistake = self._queue.get_nowait()
            except queue.Empty:
                return
            start = time.perf_counter()
            red = self._baseline(workshop, mistake.tests)
            outcome, by = (BROKEN, red) if red else workshop.judge(mistake)
            if not workshop.closed:
                seconds = round(time.perf_counter() - start, 1)
                self._keep(Result(mistake.name, self._keys[mistake.name], outcome, by, seconds))

    def _keep(self, result: Result) -> None:
        with self._lock:
            self.results[result.name] = result
            if self.path:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(result)) + "\n")
            count = f"{len(self.results):3} of {len(self.mistakes)}"
            line = f"{count}  {result.outcome:8}  {result.name}  {result.seconds:.0f} s  {result.by[:110]}"
            print(line, file=sys.stderr, flush=True)

    def __call__(self, jobs: int) -> None:
        """Judge all mistakes that no result is there for."""
        with tempfile.TemporaryDirectory(prefix="npsiglip-mistakes-", ignore_cleanup_errors=True) as place:
            workshops: list[Workshop] = []
            for number in range(min(jobs, self._queue.qsize())):
                folder = Path(place).resolve() / str(number)
                folder.mkdir()
                workshops.append(Workshop(folder, self.timeout))
            threads = [threading.Thread(target=self._work, args=(workshop,)) for workshop in workshops]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            finally:
                for workshop in workshops:
                    workshop.closed = True
                    workshop.stop()
                for thread in threads:
                    thread.join()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def report(mistakes: list[Mistake], results: dict[str, Result]) -> str:
    """Markdown: a table of counts, and the survivors with their reasons."""
    outcomes = (KILLED, NO_FAULT, *BAD)
    lines = [f"| area | mistakes | {' | '.join(outcomes)} |", "| --- |" + " ---: |" * (1 + len(outcomes))]
    areas = dict.fromkeys(mistake.area for mistake in mistakes)
    for area in (*areas, "all"):
        own = [m for m in mistakes if area in ("all", m.area) and m.name in results]
        counts = Counter(results[mistake.name].outcome for mistake in own)
        lines.append(f"| {area} | {len(own)} | {' | '.join(str(counts[outcome]) for outcome in outcomes)} |")
    left = [m for m in mistakes if m.name in results and results[m.name].outcome != KILLED]
    if left:
        lines += ["", "| survivor | file | outcome | reason |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {m.name} | {m.file} | {results[m.name].outcome} | {_cell(results[m.name].by)} |"
            for m in sorted(left, key=lambda m: results[m.name].outcome)
        ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code is 1 for a survivor without a reason, 2 for a catalogue that does not fit the tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="GLOB", action="append", help="names, files or areas; may be repeated")
    parser.add_argument("--list", action="store_true", help="show the mistakes and plant none")
    parser.add_argument("--jobs", type=int, default=1, help="at the same time")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the tests of a mistake (900)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines, to stop and go on")
    options = parser.parse_args(arguments)
    try:
        mistakes = load()
    except (CatalogueError, tomllib.TOMLDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    wanted = options.only or ["*"]
    mistakes = [m for m in mistakes if any(fnmatch(text, glob) for text in (m.name, m.file, m.area) for glob in wanted)]
    if options.list:
        for m in mistakes:
            print(f"{m.name}  ({m.file})\n    {m.why}\n    {'; '.join(m.tests)}")
        print(f"{len(mistakes)} mistakes")
        return 0
    lacking = [m for m in mistakes if m.needs and find_spec(m.needs) is None]
    if lacking:
        needs = ", ".join(sorted({m.needs for m in lacking}))
        print(f"{len(lacking)} mistakes are left out, whose tests need {needs}", file=sys.stderr)
    mistakes = [m for m in mistakes if m not in lacking]
    run = Run(mistakes, options.results, options.timeout)
    try:
        run(max(1, options.jobs))
    except KeyboardInterrupt:
        return 130
    print(report(mistakes, run.results))
    return int(any(result.outcome in BAD for result in run.results.values()))


def _end(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell's background processes ignore the first
        signal.signal(ending, _end)
    sys.exit(main())
