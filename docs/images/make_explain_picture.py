"""Draws docs/images/explain.png, the head of the page: `python docs/images/make_explain_picture.py`.

Needs Playwright for Python and a Chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the root of the repository

from playwright.sync_api import sync_playwright

from npsiglip import SigLIP
from npsiglip.explain.page import explain

PICTURE = Path(__file__).with_name("photo-pineapples.png")
TARGET = Path(__file__).with_name("explain.png")
LABELS = ["pineapple", "melon", "lemon", "ein roter Kreis"]
WIDTH, HEIGHT = 1160, 700


def main() -> None:
    """Write the picture."""
    page = explain(SigLIP.from_pretrained("builtin"), str(PICTURE), LABELS, LABELS, name="the built-in model")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "page.html")
        file.write_text(page, encoding="utf-8")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
        tab.goto(file.as_uri())
        tab.wait_for_function("document.documentElement.classList.contains('has-live')")
        tab.screenshot(path=TARGET)
        browser.close()


if __name__ == "__main__":
    main()
