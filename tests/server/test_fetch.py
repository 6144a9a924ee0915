"""What a URL that a stranger sends can reach: pictures of listed hosts on the public Internet, and nothing else."""

import contextlib
import socket
import threading
import time

import pytest

from npsiglip.server import fetch as fetching
from npsiglip.server.dialects import Refused
from npsiglip.server.fetch import Answer, fetch, is_public
from npsiglip.server.settings import Settings

SETTINGS = Settings(fetch_hosts=("pictures.example.org", ".cdn.example.org"), fetch_bytes=1000, fetch_timeout=1.0)
PUBLIC = "93.184.216.34"
GOOD = "https://pictures.example.org/a.png"


def web(pages=None, addresses=None, asked=None):
    """A resolver and a connection that know these pages: url -> (status, location, kind, content)."""
    pages = pages or {}
    asked = [] if asked is None else asked

    def resolving(host):
        asked.append(("resolve", host))
        found = (addresses or {}).get(host, [PUBLIC])
        return found.pop(0) if found and isinstance(found[0], list) else found

    def connecting(address, host, target, timeout):
        asked.append(("connect", address, host, target))
        status, location, kind, content = pages.get(f"https://{host}{target}", (404, None, "text/html", b"secret"))
        parts = [content[i : i + 400] for i in range(0, len(content), 400)] + [b""]
        return Answer(status, location, kind, lambda size: parts.pop(0) if parts else b"", lambda: None)

    return asked, {"resolving": resolving, "connecting": connecting}


def refused(url, settings=SETTINGS, **given):
    with pytest.raises(Refused) as error:
        fetch(url, "input[0]", settings, **given)
    assert error.value.status == 400
    assert "secret" not in error.value.message and "127." not in error.value.message
    return error.value.message


def test_a_picture_of_a_listed_host_is_fetched_from_the_address_that_was_checked():
    for url in (GOOD, "https://pictures.example.org:443/a.png", "https://PICTURES.example.org/a.png",
                "https://a.b.cdn.example.org/a.png"):  # fmt: skip
        host = "a.b.cdn.example.org" if "cdn" in url else "pictures.example.org"
        asked, given = web({f"https://{host}/a.png": (200, None, "image/png", b"PNG" * 300)})
        assert fetch(url, "input[0]", SETTINGS, **given) == b"PNG" * 300
        assert asked == [("resolve", host), ("connect", PUBLIC, host, "/a.png")]


URLS = {  # none of these gets as far as to be resolved
    "plain http": "http://pictures.example.org/a.png",
    "a file": "file:///etc/passwd",
    "ftp": "ftp://pictures.example.org/a.png",
    "gopher": "gopher://pictures.example.org:70/_x",
    "another host": "https://example.com/a.png",
    "the domain above": "https://example.org/a.png",
    "the domain of all below": "https://cdn.example.org/a.png",
    "a host that ends alike": "https://evil-pictures.example.org/a.png",
    "a listed host as a label": "https://pictures.example.org.evil.com/a.png",
    "loopback": "https://127.0.0.1/a.png",
    "loopback, short": "https://127.1/a.png",
    "loopback, decimal": "https://2130706433/a.png",
    "loopback, octal": "https://0177.0.0.1/a.png",
    "loopback, hexadecimal": "https://0x7f000001/a.png",
    "loopback, hexadecimal parts": "https://0x7f.0.0.0x1/a.png",
    "loopback by name": "https://localhost/a.png",
    "IPv6 loopback": "https://[::1]/a.png",
    "IPv6 mapped": "https://[::ffff:127.0.0.1]/a.png",
    "IPv6 mapped, hexadecimal": "https://[::ffff:7f00:1]/a.png",
    "IPv6 with a zone": "https://[fe80::1%25eth0]/a.png",
    "any address": "https://0.0.0.0/a.png",
    "zero": "https://0/a.png",
    "the metadata address": "https://169.254.169.254/latest/meta-data/",
    "the metadata name": "https://metadata.google.internal/computeMetadata/v1/",
    "a user": "https://pictures.example.org@127.0.0.1/a.png",
    "a listed host as a password": "https://x:pictures.example.org@evil.com/a.png",
    "credentials": "https://user:word@pictures.example.org/a.png",
    "a port": "https://pictures.example.org:22/a.png",
    "a port, spelt": "https://pictures.example.org:0443/a.png",
    "two ports": "https://pictures.example.org:443:80/a.png",
    "a backslash": "https://evil.com\\@pictures.example.org/a.png",
    "a line end": "https://pictures.example.org/a.png\r\nHost: evil.com",
    "a space": "https://pictures.example.org /a.png",
    "a fragment for a host": "https://evil.com#@pictures.example.org/",
    "a question for a host": "https://evil.com?@pictures.example.org/",
    "a dot at the end": "https://pictures.example.org./a.png",
    "wide letters": "https://ｐictures.example.org/a.png",
    "digits in circles": "https://①②⑦.⓪.⓪.①/a.png",
    "a percent in the host": "https://pictures%2eexample.org/a.png",
    "no host": "https:///a.png",
    "a NUL": "https://pictures.example.org\x00.evil.com/a.png",
    "too long": "https://pictures.example.org/" + "a" * 3000,
}


@pytest.mark.parametrize("name", URLS)
def test_urls_that_go_elsewhere_are_not_even_resolved(name):
    asked, given = web()
    refused(URLS[name], **given)
    assert asked == []


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
    "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::",
    "2001:0:4136:e378::1", "2001:db8::1", "::ffff:0:127.0.0.1", "fec0::1", "not an address",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_listed_name_that_points_inwards_is_not_connected_to(address):
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
        asked, given = web(addresses={"pictures.example.org": addresses})
        refused(GOOD, **given)
        assert asked == [("resolve", "pictures.example.org")]


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:220:1::1", "1.1.1.1"])
def test_public_addresses(address):
    assert is_public(address)


def test_a_name_that_changes_is_resolved_once():
    answers = [[PUBLIC], ["127.0.0.1"]]
    asked, given = web({GOOD: (200, None, "image/png", b"x")}, {"pictures.example.org": answers})
    assert fetch(GOOD, "input[0]", SETTINGS, **given) == b"x"
    assert [each for each in asked if each[0] == "resolve"] == [("resolve", "pictures.example.org")]
    assert asked[1][1] == PUBLIC


REDIRECTS = ["https://127.0.0.1/", "http://pictures.example.org/b.png", "//169.254.169.254/latest", "https://[::1]/",
             "https://evil.com/", "file:///etc/passwd", "https://user@pictures.example.org/b.png"]  # fmt: skip


@pytest.mark.parametrize("target", REDIRECTS)
def test_redirects_are_checked_again(target):
    asked, given = web({GOOD: (302, target, "text/html", b"secret")})
    refused(GOOD, **given)
    assert sum(each[0] == "connect" for each in asked) == 1


def test_what_is_wrong_with_a_url_is_told():
    told = {"credentials": "user or a password", "a port": "a port", "plain http": "not https",
            "loopback": "addresses are not fetched", "another host": "does not fetch from"}  # fmt: skip
    for name, sentence in told.items():
        assert sentence in refused(URLS[name], **web()[1])


def test_a_redirect_to_a_name_that_has_become_private():
    answers = [[PUBLIC], ["10.0.0.1"]]
    asked, given = web({GOOD: (307, "/b.png", "", b"")}, {"pictures.example.org": answers})
    refused(GOOD, **given)
    assert sum(each[0] == "connect" for each in asked) == 1


def test_good_redirects_are_followed_a_few_times():
    pages = {f"https://pictures.example.org/{i}": (301, f"/{i + 1}", "", b"") for i in range(9)}
    pages["https://pictures.example.org/3"] = (200, None, "image/png", b"x")
    assert fetch("https://pictures.example.org/0", "input[0]", SETTINGS, **web(pages)[1]) == b"x"
    del pages["https://pictures.example.org/3"]
    assert "redirects too often" in refused("https://pictures.example.org/4", **web(pages)[1])


def test_sizes_kinds_states_and_times():
    assert "larger" in refused(GOOD, **web({GOOD: (200, None, "image/png", b"x" * 1001)})[1])
    refused(GOOD, **web({GOOD: (200, None, "text/html", b"secret")})[1])
    refused(GOOD, **web({GOOD: (500, None, "image/png", b"secret")})[1])
    refused(GOOD, **web({GOOD: (302, None, "image/png", b"secret")})[1])
    refused(GOOD, resolving=lambda host: [])

    def drip(address, host, target, timeout):
        def read(size):
            time.sleep(0.05)
            return b"x"

        return Answer(200, None, "image/png", read, lambda: None)

    start = time.monotonic()
    refused(GOOD, Settings(fetch_hosts=SETTINGS.fetch_hosts, fetch_timeout=0.2), resolving=lambda host: [PUBLIC],
            connecting=drip)  # fmt: skip
    assert time.monotonic() - start < 2


def test_errors_of_the_network_say_nothing():
    def broken(*args):
        raise OSError("secret: no route to 10.1.2.3")

    assert "10.1" not in refused(GOOD, resolving=broken)
    assert "10.1" not in refused(GOOD, resolving=lambda host: [PUBLIC], connecting=broken)


def test_nothing_is_fetched_unless_hosts_are_listed():
    asked, given = web()
    assert "fetches none" in refused(GOOD, Settings(), **given)
    assert asked == []


def test_a_connection_goes_to_the_address_in_the_name_of_the_host(monkeypatch):
    seen = []

    class Context:
        def wrap_socket(self, raw, server_hostname, do_handshake_on_connect):
            seen.append(server_hostname)
            raise OSError

    monkeypatch.setattr(fetching.socket, "create_connection", lambda address, timeout: seen.append(address))
    connection = fetching._Pinned(PUBLIC, "pictures.example.org", 1.0)
    connection._tls = Context()
    with pytest.raises(OSError):
        connection.connect()
    assert seen == [(PUBLIC, 443), "pictures.example.org"]


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_a_server_that_sends_a_byte_now_and_then(monkeypatch, head, more):
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    class Plain(fetching._Pinned):
        def __init__(self, *args):
            super().__init__(*args)
            self._tls = self

        def wrap_socket(self, raw, **_):
            return raw

    def drip():
        with contextlib.suppress(OSError):
            theirs.sendall(head.replace(b"OK\r\n", b"OK\r\n" + more))
            while not ended.wait(0.05):
                theirs.sendall(b"0")

    ours = DoesShakeHands(fileno=ours.detach())
    monkeypatch.setattr(fetching, "_Pinned", Plain)
    monkeypatch.setattr(fetching.socket, "create_connection", lambda address, timeout: ours.settimeout(timeout) or ours)
    dripping = threading.Thread(target=drip)
    dripping.start()
    start = time.monotonic()
    try:
        settings = Settings(fetch_hosts=SETTINGS.fetch_hosts, fetch_timeout=0.3)
        refused(GOOD, settings, resolving=lambda host: [PUBLIC], connecting=as_picture)
    finally:
        passed = time.monotonic() - start
        ended.set()
        dripping.join()
        theirs.close()
        ours.close()
    assert passed < 2


class DoesShakeHands(socket.socket):
    def do_handshake(self):
        pass


def as_picture(*args):
    return fetching.connect(*args)._replace(kind="image/png")
