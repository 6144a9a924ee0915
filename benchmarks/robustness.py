"""Interrupts and damaged caches, many of them, on whole processes: `python benchmarks/robustness.py`.

    compiling    Ctrl-C at moments spread over the first compilation, three of four in the command, one in a
                 Python process that then must do the same work, with the same bits
    encoding     the same over processes that encode, from a warm cache
    cache        a warm cache of all kernels in which one file is truncated, emptied, or has a flipped byte; or a disk
                 on which nothing fits: one warning, the same bits, and the next process compiles nothing

To show: exit code 130 or a KeyboardInterrupt each time, and a process that can be used; all caches heal. The suite has
the same with chosen moments (tests/test_interrupts.py, tests/kernels/test_cache.py). The built-in model is used.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = "docs/images/example.png"

# Says "ready" when it begins, and "end" when it would have ended without an interrupt.
WORK = """
import hashlib, sys, time
import numpy as np
LONG = {long}

def work():
    from npsiglip import SigLIP
    model = SigLIP.from_pretrained("builtin")
    if LONG:
        print("ready", flush=True)
    for _ in range(LONG or 1):
        x = model.encode_image(np.full((48, 48, 3), 77, np.uint8))
        y = model.encode_text(["a red circle", "b"])
    return hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:12]

if not LONG:
    print("ready", flush=True)
try:
    work()
    print("end", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
LONG = 0
print(work(), work())
"""
CALL = "from npsiglip.cli import main; print('ready', flush=True); main()"
MANY = 1_000_000


def start(cache: Path, code: str, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def command_args(images: int) -> list[str]:
    return ["classify", *[PICTURE] * images, "-l", "a red circle"]


def interrupt(
    process: subprocess.Popen[str], seconds: float, cache: Path, files: int
) -> tuple[int | None, list[str], str]:
    """Exit code, words on stdout after "ready", and stderr; no code if it had ended before.

    The interrupt comes so many seconds after there are so many files in the cache.
    """
    assert process.stdout is not None
    while process.stdout.readline().strip() not in ("ready", ""):
        pass
    while len(kernels_in(cache)) < files and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    if process.poll() is not None:
        process.communicate()
        return None, [], ""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=600)
    return process.returncode, output.split(), errors


def kernels_in(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.kernel"))


def first_run(cache: Path) -> tuple[float, int]:
    """Seconds that the work takes, from "ready" on, and how many kernels it compiles."""
    process = start(cache, CALL, *command_args(1))
    assert process.stdout is not None
    process.stdout.readline()
    began = time.perf_counter()
    process.communicate()
    return time.perf_counter() - began, len(kernels_in(cache))


def interrupts(number: int, compiling: bool, expected: str, warm: Path) -> int:
    """Interrupts that went wrong."""
    wrong = none = 0
    span, kernels = 2.0, 0
    if compiling:
        with tempfile.TemporaryDirectory() as scratch:
            span, kernels = first_run(Path(scratch))
    print(f"{'compiling' if compiling else 'encoding'}: {number} interrupts over {span:.1f} s", flush=True)
    for i in range(number):
        with tempfile.TemporaryDirectory() as scratch:
            cache, moment, files = Path(scratch) if compiling else warm, span * (i + 0.5) / number, 0
            if compiling:  # by what is done, since the machine may be slower or faster next time
                files = int(kernels * (i + 0.5) / number)
                moment -= files * span / kernels
            if i % 4:
                process = start(cache, CALL, *command_args(1 if compiling else 3000))
                code, output, errors = interrupt(process, moment, cache, files)
                # after the last result the signal ends the process, as in other programs: a shell shows 130, too
                good = code in (130, -signal.SIGINT) and "Traceback" not in errors
            else:
                process = start(cache, WORK.format(long=0 if compiling else MANY))
                code, output, errors = interrupt(process, moment, cache, files)
                late = output[:1] == ["end"]  # it came after the compilation, and was not lost
                good = code == 0 and output[late:] == ["interrupted", expected, expected]
        if code is None:
            none += 1
        elif not good:
            wrong += 1
            print(f"  {files} kernels and {moment:.2f} s: exit code {code}, {output[:9]} {errors[-2000:]}", flush=True)
    late = f", {none} came too late" if none else ""
    print(f"  {number - wrong - none} of {number} as expected{late}", flush=True)
    return wrong


def damage(path: Path, how: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data[: rng.randrange(1, len(data))] if how == "truncated" else b"" if how == "emptied" else data)


def result_of(cache: Path, limit: int | None = None) -> tuple[str, int, float]:
    """The bits, the warnings, and what was compiled."""
    code = WORK.format(long=0).replace('print("ready", flush=True)', "pass").replace("time.sleep(60)", "pass")
    if limit is not None:
        code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))\n" + code
    listen = "from npsiglip.kernels.jit import on_compile\nfound = []\nlistening = on_compile(found.append)\n"
    code = f"{listen}listening.__enter__()\n{code}"
    process = start(cache, code + "\nprint(len(found))")
    output, errors = process.communicate()
    if process.returncode:
        return f"exit code {process.returncode}: {errors[-2000:]}", 0, 0
    words = output.split()
    return words[1], errors.count("RuntimeWarning"), int(words[-1])


def caches(number: int, expected: str, warm: Path) -> int:
    """Caches that did not heal."""
    wrong, rng = 0, random.Random(0)
    for i in range(number):
        how = ("truncated", "emptied", "flipped", "flipped", "full disk")[i % 5]
        with tempfile.TemporaryDirectory() as scratch:
            cache = Path(scratch, "cache")
            shutil.copytree(warm, cache)
            path = rng.choice(kernels_in(cache))
            if how == "full disk":
                path.unlink()
            else:
                damage(path, how, rng)
            first = result_of(cache, limit=1000 if how == "full disk" else None)
            if how == "full disk":
                result_of(cache)
            second = result_of(cache)
        used = first[2] > 0  # a file of a kernel that is not called here is not looked at
        good = first == (expected, int(used), int(used)) and second == (expected, 0, 0)
        wrong += not good
        if not good or not used:
            print(f"  {how} {path.name}: {first}, then {second}" + ("" if used else " (not used)"), flush=True)
    print(f"  {number - wrong} of {number} as expected", flush=True)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["compiling", "encoding", "cache"])
    parser.add_argument("--interrupts", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--caches", type=int, default=20, help="default: %(default)s")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it
    with tempfile.TemporaryDirectory() as scratch:
        warm, wrong = Path(scratch), 0
        expected = result_of(warm)[0]
        if len(expected) != 12:
            sys.exit(expected)
        for what in options.what:
            if what == "cache":
                print(f"cache: {options.caches} damaged", flush=True)
                wrong += caches(options.caches, expected, warm)
            else:
                wrong += interrupts(options.interrupts, what == "compiling", expected, warm)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
