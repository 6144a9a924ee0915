"""`npsiglip index` is killed at random moments and started again: `python benchmarks/index_kill.py`.

A folder of small pictures, some of them broken, is indexed undisturbed; then again and again by processes that get a
SIGKILL at a random moment between their first look at the folder and their end, each time until a run ends by itself.

To show: every file of the index has the same bytes as that of the undisturbed run. The suite has the same with few
moments (tests/collection/test_index.py). The built-in model is used.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent


def draw(folder, count):
    """Pictures of noise in several folders; every tenth is broken."""
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i % 7}" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if i % 10 == 3:
            path.write_bytes(b"broken")
        else:
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8)).save(path)


def start(photos, index, shard_rows):
    code = "from npsiglip.cli import main; main()"
    command = [sys.executable, "-c", code, "index", photos, "-i", index, "--shard-rows", str(shard_rows)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, env=environment)


def content(index):
    return {path.name: path.read_bytes() for path in index.iterdir() if path.name != "lock"}


def begun(process, index, photos):
    """Wait until the run writes, or ends."""
    before = {path.name for path in index.iterdir()} if index.exists() else set()
    while process.poll() is None:
        now = {path.name for path in index.iterdir()} if index.exists() else set()
        if now - before or ((index / "lock").exists() and str(process.pid) in (index / "lock").read_text()):
            return
        time.sleep(0.002)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--shard-rows", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        draw(photos, options.pictures)
        begin = time.monotonic()
        process = start(photos, Path(folder, "whole"), options.shard_rows)
        begun(process, Path(folder, "whole"), photos)
        writing = time.monotonic()
        process.communicate()
        long = time.monotonic() - writing
        print(f"undisturbed: {writing - begin:.2f} s to start, {long:.2f} s to embed", flush=True)
        whole = content(Path(folder, "whole"))
        kills = runs = same = 0
        while kills < options.kills:
            index, here = Path(folder, f"index{runs}"), 0
            while True:
                process = start(photos, index, options.shard_rows)
                begun(process, index, photos)
                try:
                    process.communicate(timeout=rng.uniform(0, long / 2) if kills < options.kills else None)
                    break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                    kills, here = kills + 1, here + 1
            runs += 1
            equal = content(index) == whole
            same += equal
            print(f"index {runs}: killed {here} times, {'the same bytes' if equal else 'OTHER BYTES'}", flush=True)
    print(f"{kills} kills, {same} of {runs} indexes have the bytes of the undisturbed run")
    sys.exit(same != runs)


if __name__ == "__main__":
    main()
