"""Fetching a picture whose URL a stranger sent: off unless hosts are listed, and then guarded.

- https and its port alone, no user or password, names on the list alone, never an address.
- A name is resolved once; every address that it has must be one of the public Internet, and the connection goes to the
  very address that was checked: a name that points elsewhere a moment later changes nothing.
- Each redirect is a new URL, checked from the start.
- Time and bytes have a limit as a whole. Nothing of an answer or of an error goes back to who asked.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from npsiglip.server.dialects import Refused
from npsiglip.server.settings import Settings

REDIRECTS = 3
Resolve = Callable[[str], Sequence[str]]
Connect = Callable[[str, str, str, float], "Answer"]
_NAME = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))+")
_BEHIND = (  # networks whose addresses stand for others, which may be private
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
    ipaddress.ip_network("::/96"),
    ipaddress.ip_network("::ffff:0:0/96"),
    ipaddress.ip_network("::ffff:0:0:0/96"),
    ipaddress.ip_network("192.88.99.0/24"),
)


class Answer(NamedTuple):
    """Of a server: the status, where it redirects to, the kind of content, and how its content is read."""

    status: int
    location: str | None
    kind: str
    read: Callable[[int], bytes]
    close: Callable[[], Any]


def is_public(address: str) -> bool:
    """Whether an address is one of the public Internet, and stands for no other."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if any(found.version == network.version and found in network for network in _BEHIND):
        return False
    if isinstance(found, ipaddress.IPv6Address) and (found.is_site_local or found.scope_id):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def host_of(url: str, allowed: Sequence[str]) -> tuple[str, str]:
    """The host of a URL, and its path with its query.

    Raises:
        ValueError: a URL that is not fetched, with the reason.
    """
    if len(url) > 2048 or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise ValueError("is spelt with characters that a URL does not have, or too long")
    parts = urlsplit(url)
    if parts.scheme != "https":
        raise ValueError("is not https")
    if "@" in parts.netloc:
        raise ValueError("has a user or a password")
    host = parts.netloc.lower()
    if host.endswith(":443"):
        host = host[:-4]
    if ":" in host:
        raise ValueError("has a port other than that of https, or an address for a host")
    if not _NAME.fullmatch(host) or host.rsplit(".", 1)[1].isdigit() or re.match(r"0x", host.rsplit(".", 1)[1]):
        raise ValueError("has no host name; addresses are not fetched")
    if not any(host == name or (name.startswith(".") and host.endswith(name)) for name in map(str.lower, allowed)):
        raise ValueError("is of a host that this server does not fetch from")
    return host, (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def resolve(host: str) -> list[str]:
    """All addresses of a name.

    Raises:
        OSError: it has none.
    """
    return [str(found[4][0]) for found in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]


class _Pinned(http.client.HTTPSConnection):
    """To an address that was checked, in the name of its host; no proxy, no second look-up."""

    def __init__(self, address: str, host: str, timeout: float) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(host, 443, timeout=timeout, context=self._tls)
        self._address = address
        self._own: ssl.SSLSocket | None = None
        self._timer = threading.Timer(timeout, self._end)
        self._timer.daemon = True

    def connect(self) -> None:
        raw = socket.create_connection((self._address, 443), self.timeout)
        self._own = self.sock = self._tls.wrap_socket(raw, server_hostname=self.host, do_handshake_on_connect=False)
        self._timer.start()  # a socket's own timeout is for each byte: one now and then would go on for ever
        self.sock.do_handshake()

    def _end(self) -> None:
        if self._own is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._own, socket.SHUT_RDWR)  # not TLS's own, which would wait

    def end(self) -> None:
        """Close, and stop the timer: `close` is called before an answer is read."""
        self._timer.cancel()
        self.close()


def connect(address: str, host: str, target: str, timeout: float) -> Answer:
    """Ask for a file.

    Raises:
        OSError, http.client.HTTPException: no answer.
    """
    connection = _Pinned(address, host, timeout)
    try:
        connection.request(
            "GET", target, headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "npsiglip"}
        )
        answer = connection.getresponse()
    except BaseException:
        connection.end()
        raise
    kind = (answer.getheader("Content-Type") or "").split(";")[0].strip().lower()

    def read(size: int) -> bytes:
        return answer.read1(size)

    def close() -> None:
        answer.close()
        connection.end()

    return Answer(answer.status, answer.getheader("Location"), kind, read, close)


def _read(answer: Answer, most: int, until: float) -> bytes:
    parts, size = [], 0
    while part := answer.read(65536):
        parts.append(part)
        size += len(part)
        if size > most:
            raise ValueError("is larger than this server fetches")
        if time.monotonic() > until:
            raise TimeoutError
    if time.monotonic() > until:  # the connection was ended, which looks like the end of an answer
        raise TimeoutError
    return b"".join(parts)


def fetch(
    url: str, where: str, settings: Settings, resolving: Resolve = resolve, connecting: Connect = connect
) -> bytes:
    """The content of a picture's URL.

    Args:
        url: as it was sent.
        where: it stands in the request.
        settings: which hosts, how large, how long.
        resolving: a name to addresses.
        connecting: an address, its name, a path and seconds to an answer.

    Raises:
        Refused: 400, with a reason that tells nothing of what is behind the URL.
    """
    if not settings.fetch_hosts:
        raise Refused(400, f"{where} is a URL, and this server fetches none; send the picture as a data URI", where)
    until = time.monotonic() + settings.fetch_timeout
    try:
        for _ in range(REDIRECTS + 1):
            host, target = host_of(url, settings.fetch_hosts)
            addresses = resolving(host)
            if not addresses or not all(map(is_public, addresses)):
                raise OSError
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            answer = connecting(addresses[0], host, target, left)
            try:
                if answer.status in (301, 302, 303, 307, 308) and answer.location:
                    url = urljoin(url, answer.location)
                    continue
                if answer.status != 200 or not answer.kind.startswith("image/"):
                    raise OSError
                return _read(answer, settings.fetch_bytes, until)
            finally:
                answer.close()
        raise ValueError("redirects too often")
    except (OSError, http.client.HTTPException, UnicodeError):
        raise Refused(400, f"{where}: no picture could be fetched from this URL", where, "fetch_failed") from None
    except ValueError as error:
        raise Refused(400, f"{where}: the URL, or what it redirects to, {error}", where, "fetch_refused") from None
