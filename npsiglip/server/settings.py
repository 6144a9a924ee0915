"""What a server is told: its models and index, and every limit, with the reason for its size."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from npsiglip.errors import InputError
from npsiglip.texts.base import check_text

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_TEXT = 10_000  # characters: models read 16 to 64 tokens, and cutting a long text into tokens takes time


@dataclass(frozen=True)
class Settings:
    """Of a server.

    Raises:
        InputError: a limit that is not positive; an empty key.
    """

    models: tuple[str, ...] = ()
    """Names or folders, or ID=NAME; the first is the default. None are given: the index's, or the built-in one."""
    index: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7997
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    """Names in the Host header beside those of this machine's loopback and `host`: a page of a stranger that has its
    own name point to this server is refused."""
    dtype: str | None = None
    threads: int | None = None
    truncate: bool = False
    """Ignore the end of a text that is too long, instead of refusing it."""

    window: float = 0.002
    """Seconds that an idle worker waits for company; a busy one finds it anyway."""
    queue: int = 512
    """Pictures and texts that wait or are worked on; more are refused with 429."""
    requests: int = 128
    """Requests that are open at once; more are refused with 429."""
    timeout: float = 30.0
    """Seconds for a request, from its last byte to the answer."""
    body_timeout: float = 20.0
    """Seconds for all of a request's bytes to come."""
    idle: float = 0.0
    """Seconds after which a model that nobody asks for is unloaded; 0: never."""
    max_loaded: int = 0
    """Models that are loaded at once; the one used least recently goes first. 0: all."""
    cache: float = 64.0
    """Megabytes of embeddings and thumbnails that are kept."""

    max_bytes: int = 32_000_000
    """Of a request."""
    max_megapixels: float = 40.0
    """Of a picture: 120 MB decoded."""
    max_images: int = 32
    """Of a request, as Infinity."""
    max_texts: int = 2048
    """Of a request, as OpenAI."""
    max_labels: int = 1000
    """Of a request: the classes of ImageNet."""

    fetch_hosts: tuple[str, ...] = ()
    """Hosts whose pictures are fetched by https; none: no URL is fetched. ".example.org": all below it."""
    fetch_timeout: float = 10.0
    """Seconds for a picture to be fetched, redirects included."""
    fetch_bytes: int = 16_000_000
    """Of a picture that is fetched."""

    def __post_init__(self) -> None:
        may_be_zero = ("window", "idle", "max_loaded", "cache", "port")
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and not (value >= 0 if field.name in may_be_zero else value > 0):
                raise InputError(f"{field.name} must be above 0, got {value}")
        for key in self.api_keys:
            check_text(key, "an API key")
            if not key.strip():
                raise InputError("an API key is empty: is a variable not set?")

    @property
    def known_hosts(self) -> frozenset[str] | None:
        """What the Host header may name; None if this is reached from elsewhere under names that nobody listed."""
        if self.host not in LOOPBACK and not self.allowed_hosts:
            return None
        return frozenset(name.lower() for name in (*LOOPBACK, self.host, *self.allowed_hosts))
