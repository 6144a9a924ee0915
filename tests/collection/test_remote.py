"""Pictures behind http, from a server on this machine; need aiohttp, skipped without: `pip install 'fsspec[http]'`."""

import functools
import http.server
import threading

import pytest

from npsiglip import SigLIP
from npsiglip.collection.build import build
from npsiglip.collection.items import Item
from npsiglip.collection.where import Where, read_key
from npsiglip.errors import InputError
from tests.helpers.collections import draw
from tests.helpers.golden_data import TINY


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and is broken for one."""

    def do_GET(self):
        if "broken" in self.path:
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder, and its URL."""
    pytest.importorskip("aiohttp")
    folder = tmp_path / "served"
    for name in ("a b.png", "c.jpg", "sub/d.png"):
        draw(folder / name)
    (folder / "notes.txt").touch()
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_single_file(server):
    folder, url = server
    (item,) = Where([f"{url}/c.jpg"])
    content = (folder / "c.jpg").read_bytes()
    assert isinstance(item, Item)
    assert (item.key, item.size, item.opener()) == (f"{url}/c.jpg", len(content), content)
    assert read_key(item.key) == content
    with pytest.raises(InputError, match="does not exist; check the URL"):
        list(Where([f"{url}/none.png"]))


def test_a_page_that_lists_files(server):
    folder, url = server
    items = list(Where([f"{url}/"]))
    assert [item.key for item in items] == [f"{url}/a%20b.png", f"{url}/c.jpg", f"{url}/sub/d.png"]
    assert items[0].opener() == (folder / "a b.png").read_bytes()


def test_an_index(server, tmp_path):
    """A second run embeds nothing; a file that vanishes while the collection is read is told."""
    _, url = server
    model = SigLIP.from_pretrained(TINY)
    table = tmp_path / "x.csv"
    table.write_text(f"path\n{url}/c.jpg\n{url}/none.png\n{url}/broken.png\n", encoding="utf-8")
    told = []
    built = build(Where([f"{url}/", table]), tmp_path / "index", model, skipped=told.append)
    assert (built.new, built.failed) == (3, 2)
    reasons = {failure.key: failure.reason for failure in told}
    assert reasons.pop(f"{url}/none.png") == "vanished while the collection was read"
    assert "503" in reasons.pop(f"{url}/broken.png")
    assert not reasons
    again = build(Where([f"{url}/", table]), tmp_path / "index", model)
    assert (again.new, again.same, again.failed, again.still) == (0, 3, 2, 2)
