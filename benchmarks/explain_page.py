"""What the page of `npsiglip explain` costs: `python benchmarks/explain_page.py [--model FOLDER]`.

The page is made here, opened in a headless Chromium (NPSIGLIP_CHROMIUM, or what is called chromium), and used: told are
its size, the time to make it, the time until the live model answers (of several loads), and that of an update, from the
change to the end of drawing, as the page itself counts it. Needs `pip install playwright`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
LIVE = "document.documentElement.classList.contains('has-live')"
UPDATES = {
    "a label is changed": "npsiglip.relabel(0, 'a red circle NUMBER')",
    "t or the bias is moved": "npsiglip.act({bias: -NUMBER})",
    "a head is switched off": "npsiglip.act({toggle: '0.NUMBER'})",
    "another picture": "npsiglip.look(new Uint8Array(256 * 256 * 3).fill(NUMBER * 20), 256, 256, "
    "npsiglip.view.picture.shown)",
}


def told(what, times, unit="ms"):
    print(f"{what:24} {statistics.median(times):8.1f} {unit} ({min(times):.1f} to {max(times):.1f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--image", default=str(ROOT / "docs/images/example.png"))
    parser.add_argument("-l", "--label", action="append")
    parser.add_argument("--width", type=int, default=1280, help="of the window")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    labels = options.label or ["a red circle", "a blue square", "a cat"]
    with tempfile.TemporaryDirectory() as folder:
        page, given = Path(folder, "page.html"), [part for label in labels for part in ("-l", label)]
        command = [sys.executable, "-m", "npsiglip", "explain", options.image, *given, "--model", options.model]
        begin = time.perf_counter()
        subprocess.run([*command, "-o", str(page)], check=True, stderr=subprocess.DEVNULL)
        print(f"made in {time.perf_counter() - begin:.1f} s, {page.stat().st_size / 1e6:.1f} MB", flush=True)
        with sync_playwright() as playwright:
            chromium = os.environ.get("NPSIGLIP_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            loads = []
            for _ in range(options.rounds):
                opened = browser.new_page(viewport={"width": options.width, "height": 900})
                opened.goto(f"file://{page}")
                if not opened.evaluate("Boolean(window.npsiglip)"):
                    print("no live model in this page")
                    return
                opened.wait_for_function(LIVE)
                loads.append(opened.evaluate("performance.now()"))
                if len(loads) < options.rounds:
                    opened.close()
            told("live", loads)
            for what, script in UPDATES.items():
                times = []
                for number in range(options.rounds + 1):
                    opened.wait_for_timeout(120)
                    times.append(opened.evaluate(script.replace("NUMBER", str(number % 5)) + "; npsiglip.last"))
                told(what, times[1:])
            browser.close()


if __name__ == "__main__":
    main()
