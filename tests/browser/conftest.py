"""A browser for all pages, and for the server's page a server; the browser reaches nothing else.

NPSIGLIP_CHROMIUM is the browser, or what is called chromium. Where it or Playwright is missing nothing is collected.
"""

import os
import shutil
from importlib.util import find_spec

import pytest

import npsiglip
from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.serving import server

CHROMIUM = os.environ.get("NPSIGLIP_CHROMIUM") or shutil.which("chromium")
PLAYWRIGHT, SERVER = ("playwright", "axe_playwright_python"), ("fastapi", "uvicorn", "prometheus_client")
if not CHROMIUM or not all(map(find_spec, PLAYWRIGHT)):
    collect_ignore_glob = ["test_*.py"]
elif not all(map(find_spec, SERVER)):
    collect_ignore_glob = ["test_server.py"]


@pytest.fixture(scope="package")
def address(tmp_path_factory):
    """Of a server with two models and an index of drawn pictures."""
    index = tmp_path_factory.mktemp("index") / "index"
    pictures = sorted(map(str, (ROOT / "docs/images").glob("world-*.png")))
    npsiglip.Index.build(pictures, index).close()
    with server("-m", "builtin", "-m", f"tiny={TINY}", "-i", index) as started:
        yield started.url


@pytest.fixture(scope="package")
def chromium():
    """The browser; it ends with these tests, because Playwright keeps an event loop running in the thread meanwhile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
                     "--disable-background-networking", "--disable-component-update",
                     "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # fmt: skip
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def is_wrong(message):
    """An error of the page's own; a request that the server refuses is told on the page, and in the console, too."""
    return message.type == "error" and "the server responded with a status of 4" not in message.text


@pytest.fixture
def open_page(chromium, address):
    """Opens the page in a window of its own; at the end nothing else was asked for, and nothing went wrong in it."""
    contexts, wrong = [], []

    def opened(path="/", **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.grant_permissions(["camera", "clipboard-read", "clipboard-write"], origin=address)
        contexts.append(context)

        def route(each):
            if each.request.url.startswith(address):
                each.continue_()
            else:
                wrong.append(each.request.url)
                each.abort()

        context.route("**/*", route)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
        page.goto(address + path)
        page.set_default_timeout(8000)
        page.wait_for_selector("#model option, #routes details", state="attached")
        page.wait_for_load_state("networkidle")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
