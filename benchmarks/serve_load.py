"""`npsiglip serve` under load: `python benchmarks/serve_load.py --what all --model FOLDER --dtype int8`.

start       from the start of the process to /ready, the kernels compiled before
throughput  pictures a second of 16 clients that ask one after the other, beside the library's own batches
latency     the 99th percentile at half of that load, at a steady pace and at random moments (of which half the load of
            one server that needs the same time for each makes about 4), beside the time of a single request
mixed       minutes of good requests (each compared with the library's bits), bad ones, clients that are killed, and
            slow ones: no wrong answer, no 5xx, and the resident memory at the end beside that after a tenth of the time

Clients are threads of this process, and take their share of the same cores. Nothing is cached, but in `mixed`.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from npsiglip import SigLIP
from tests.helpers.serving import server

HEADERS = {"Content-Type": "application/json"}
LABELS = ["a green circle", "a red ring", "two blue squares"]
BAD = (
    {"input": ["AAAA"], "modality": "image"},
    {"input": []},
    {"input": "a", "model": "none"},
    {"input": 5},
    {"input": ["data:image/png;base64,!!!"]},
    {"input": "a", "dimensions": 10**6},
)


def pictures(count, side):
    """JPEGs of smooth noise, all different."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        file = io.BytesIO()
        small.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def body_of(picture):
    uri = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    return json.dumps({"input": [uri], "encoding_format": "base64"}).encode()


class Client:
    """One connection that is kept."""

    def __init__(self, url):
        self.host = url.removeprefix("http://")
        self.connection = http.client.HTTPConnection(self.host, timeout=120)

    def post(self, path, body):
        """The status and the content; of a connection that was closed meanwhile, by another one."""
        for last in (False, True):
            try:
                self.connection.request("POST", path, body, HEADERS)
                answer = self.connection.getresponse()
                return answer.status, answer.read()
            except (http.client.HTTPException, ConnectionError):
                self.connection.close()
                if last:
                    raise
        raise AssertionError


def in_threads(count, run):
    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start(options, repeats=5):
    """Seconds from the process to /ready, each time; the first is not counted."""
    found = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        with server(*options) as started:
            client = http.client.HTTPConnection(started.url.removeprefix("http://"), timeout=60)
            client.request("GET", "/ready")
            assert client.getresponse().status == 200
            found.append(time.perf_counter() - begin)
    return {"seconds": sorted(round(each, 3) for each in found[1:]), "bar": 1.5}


def library(model, images, seconds):
    """Pictures a second of the library's own batches of 64."""
    model.encode_image(images[:8])
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        model.encode_image(images[:64])
        done += len(images[:64])
    return done / (time.perf_counter() - begin)


def throughput(url, bodies, clients, seconds):
    """Pictures a second of clients that ask one after the other."""
    counts, until = [0] * clients, time.perf_counter() + seconds

    def run(i):
        client = Client(url)
        while time.perf_counter() < until:
            status, said = client.post("/v1/embeddings", bodies[(i + clients * counts[i]) % len(bodies)])
            assert status == 200, said
            counts[i] += 1

    begin = time.perf_counter()
    in_threads(clients, run)
    return sum(counts) / (time.perf_counter() - begin)


def latency(url, bodies, rate, seconds, even):
    """Milliseconds of single requests, and the 99th percentile at a rate, of random moments or of a steady pace."""
    client, alone = Client(url), []
    for i in range(60):
        begin = time.perf_counter()
        client.post("/v1/embeddings", bodies[i % len(bodies)])
        alone.append(time.perf_counter() - begin)
    number = max(20, int(rate * seconds))
    apart = np.full(number, 1 / rate) if even else np.random.default_rng(1).exponential(1 / rate, number)
    moments = np.cumsum(apart)
    found, lock, places = [], threading.Lock(), iter(enumerate(moments))
    begin = time.perf_counter()

    def run(_):
        own = Client(url)
        while True:
            with lock:
                place = next(places, None)
            if place is None:
                return
            due = begin + place[1]
            time.sleep(max(0.0, due - time.perf_counter()))
            status, said = own.post("/v1/embeddings", bodies[place[0] % len(bodies)])
            assert status == 200, said
            found.append(time.perf_counter() - due)  # from when it was due: waiting for a thread counts

    in_threads(64, run)
    single, p99 = 1000 * np.median(alone[10:]), 1000 * np.percentile(found, 99)
    return {
        "single_ms": round(single, 2), "rate": round(rate, 1), "requests": len(found),
        "p50_ms": round(1000 * float(np.median(found)), 2), "p99_ms": round(float(p99), 2),
        "p99_over_single": round(float(p99 / single), 2), "bar": 3.0,
    }  # fmt: skip


def resident(pid):
    """Megabytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    raise OSError(f"no memory of process {pid}")


def killed(host, body):
    """Send a request, in part or whole, and go."""
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    name, port = host.split(":")
    with contextlib.suppress(OSError), socket.create_connection((name, int(port)), 10) as connection:
        connection.sendall(
            f"{head}{len(body)}\r\n\r\n".encode() + body[: random.choice((10, len(body) // 2, len(body)))]
        )
        time.sleep(random.random() * 0.02)


def slow(host, body):
    """Send a request in crumbs, and read its answer; the status."""
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: "
    name, port = host.split(":")
    with socket.create_connection((name, int(port)), 60) as connection:
        content = f"{head}{len(body)}\r\n\r\n".encode() + body
        for place in range(0, len(content), max(1, len(content) // 20)):
            connection.sendall(content[place : place + max(1, len(content) // 20)])
            time.sleep(0.05)
        return int(connection.recv(20).split()[1])


def mixed(started, model, images, clients, minutes):
    """What became of everything, and the memory."""
    right = [row.astype("<f4").tobytes() for row in model.encode_image(images)]
    scores = model.classify(images[0], LABELS)[0]
    bodies = [body_of(picture) for picture in images]
    task = json.dumps(
        {"inputs": base64.b64encode(images[0]).decode(), "parameters": {"candidate_labels": LABELS}}
    ).encode()
    counts, until, host = Counter(), time.monotonic() + 60 * minutes, started.url.removeprefix("http://")

    def one(rng, client):
        kind, i = rng.random(), rng.randrange(len(bodies))
        if kind < 0.10:
            status, _ = client.post("/v1/embeddings", json.dumps(rng.choice(BAD)).encode())
            return "bad, refused" if 400 <= status < 500 else f"bad, {status}"
        if kind < 0.13:
            killed(host, bodies[i])
            return "killed"
        if kind < 0.14:
            return f"slow, {slow(host, bodies[i])}"
        if kind < 0.30:
            status, said = client.post("/zero-shot-image-classification", task)
            return "right" if status == 200 and json.loads(said) == scores else f"wrong, {status}"
        status, said = client.post("/v1/embeddings", bodies[i])
        if status != 200:
            return f"good, {status}"
        found = base64.b64decode(json.loads(said)["data"][0]["embedding"])
        return "right" if found == right[i] else "wrong bits"

    def run(i):
        rng, client = random.Random(i), Client(started.url)
        while time.monotonic() < until:
            try:
                counts[one(rng, client)] += 1
            except Exception as error:
                counts[f"error: {type(error).__name__}"] += 1

    memory, begin = [], time.monotonic()

    def watch():
        while time.monotonic() < until:
            memory.append((time.monotonic() - begin, resident(started.process.pid)))
            time.sleep(max(0.2, 0.6 * minutes))

    watching = threading.Thread(target=watch)
    watching.start()
    in_threads(clients, run)
    watching.join()
    early = next(size for moment, size in memory if moment >= 6 * minutes)
    late = resident(started.process.pid)
    return {
        "minutes": minutes, **dict(sorted(counts.items())),
        "resident_mb_early": round(early), "resident_mb_late": round(late),
        "growth": round(late / early - 1, 4), "bar": 0.05,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--what", nargs="+", default=["all"], choices=["all", "start", "throughput", "latency", "mixed"]
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--side", type=int, default=320, help="pixels of the width of a picture")
    parser.add_argument("--window", default="2", help="milliseconds")
    args = parser.parse_args()
    what = {"start", "throughput", "latency", "mixed"} if "all" in args.what else set(args.what)
    options = ["--model", f"m={args.model}" if args.model != "builtin" else "builtin", "--window", args.window]
    options += ["--dtype", args.dtype] if args.dtype else []
    model, images = SigLIP.from_pretrained(args.model, args.dtype), pictures(64, args.side)
    bodies = [body_of(picture) for picture in images]
    print(json.dumps({"model": args.model, "dtype": model.dtype, "cores": len(os.sched_getaffinity(0))}), flush=True)

    def tell(name, found):
        print(json.dumps({name: found}), flush=True)

    if "start" in what:
        tell("start", start(options))
    if what & {"throughput", "latency"}:
        with server(*options, "--cache", "0") as started:
            throughput(started.url, bodies, args.clients, 2)
            library(model, images, 2)
            turns = [
                (
                    library(model, images, args.seconds / 3),
                    throughput(started.url, bodies, args.clients, args.seconds / 3),
                )
                for _ in range(3)  # in turns, so that both meet the same machine
            ]
            own, found = (float(np.median(values)) for values in zip(*turns, strict=True))
            tell(
                "throughput",
                {
                    "library": round(own, 1),
                    "server": round(found, 1),
                    "ratio": round(float(np.median([b / a for a, b in turns])), 3),
                    "bar": 0.9,
                },
            )
            if "latency" in what:
                tell("latency, steady pace", latency(started.url, bodies, found / 2, args.seconds, True))
                tell("latency, random moments", latency(started.url, bodies, found / 2, args.seconds, False))
    if "mixed" in what:
        with server(*options, "--cache", "0.01") as started:
            tell("mixed", mixed(started, model, images, args.clients, args.minutes))


if __name__ == "__main__":
    main()
