"""`npsiglip serve`: embeddings, classification and search over HTTP, and a page."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from npsiglip.cli.activity import BUILTIN_NOTE, without_collection
from npsiglip.cli.console import note, warn
from npsiglip.errors import InputError

MEGA = 1_000_000


def _option(*names: str, envvar: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    """An option that is a variable of the environment, too."""
    return typer.Option(*names, envvar=f"NPSIGLIP_{envvar}", help=help, metavar=metavar, **more)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, before time is spent on models.

    Raises:
        InputError: the port is in use, or the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"--host {host} cannot be used: {error.strerror or error}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(512)
    except OSError as error:
        found.close()
        raise InputError(
            f"port {port} of {host} cannot be used ({error.strerror or error}); is another server running? Give --port"
        ) from None
    return found


def serve(
    models: Annotated[
        list[str],
        _option(
            "--model",
            "-m",
            envvar="MODEL",
            metavar="MODEL",
            help="A name or a folder, or ID=NAME; give several, the first is the default.",
            show_default="that of the index, or builtin",
        ),
    ] = [],  # noqa: B006  Typer copies it
    index: Annotated[
        Path | None,
        _option("--index", "-i", envvar="INDEX", metavar="INDEX", help="The folder of an index to search in."),
    ] = None,
    host: Annotated[
        str, _option("--host", envvar="HOST", help="Where to listen; 0.0.0.0 is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[int, _option("--port", envvar="PORT", min=0, max=65535, help="0: a free one.")] = 7997,
    api_key: Annotated[
        list[str],
        _option(
            "--api-key",
            envvar="API_KEY",
            metavar="KEY",
            help="What clients must send; give several. Better a variable than an option, which others see.",
        ),
    ] = [],  # noqa: B006
    allowed_host: Annotated[
        list[str],
        _option(
            "--allowed-host", envvar="ALLOWED_HOST", metavar="NAME", help="A name that clients reach this server by."
        ),
    ] = [],  # noqa: B006
    dtype: Annotated[
        str | None, _option("--dtype", envvar="DTYPE", metavar="NAME", help="float32, bfloat16 or int8, of all models.")
    ] = None,
    threads: Annotated[int | None, _option("--threads", envvar="THREADS", min=1, help="Of the kernels.")] = None,
    truncate: Annotated[
        bool, _option("--truncate", envvar="TRUNCATE", help="Ignore the end of a text that is too long.")
    ] = False,
    window: Annotated[
        float, _option("--window", envvar="WINDOW", metavar="MS", min=0, help="Milliseconds to wait for company.")
    ] = 2.0,
    queue: Annotated[
        int, _option("--queue", envvar="QUEUE", min=1, help="Pictures and texts in work at once; more get 429.")
    ] = 512,
    requests: Annotated[
        int, _option("--requests", envvar="REQUESTS", min=1, help="Open requests; more get 429.")
    ] = 128,
    timeout: Annotated[
        float, _option("--timeout", envvar="TIMEOUT", metavar="S", help="Seconds for an answer.")
    ] = 30.0,
    idle: Annotated[
        float,
        _option(
            "--unload-idle",
            envvar="UNLOAD_IDLE",
            metavar="S",
            min=0,
            help="Unload a model that nobody asked for so many seconds; 0: never.",
        ),
    ] = 0.0,
    max_loaded: Annotated[
        int, _option("--max-loaded", envvar="MAX_LOADED", min=0, help="Models in memory at once; 0: all.")
    ] = 0,
    cache: Annotated[float, _option("--cache", envvar="CACHE", metavar="MB", min=0, help="Of embeddings.")] = 64.0,
    max_megabytes: Annotated[
        float, _option("--max-megabytes", envvar="MAX_MEGABYTES", metavar="MB", help="Of a request.")
    ] = 32.0,
    max_megapixels: Annotated[
        float, _option("--max-megapixels", envvar="MAX_MEGAPIXELS", metavar="N", help="Of a picture.")
    ] = 40.0,
    max_images: Annotated[int, _option("--max-images", envvar="MAX_IMAGES", min=1, help="Of a request.")] = 32,
    max_texts: Annotated[int, _option("--max-texts", envvar="MAX_TEXTS", min=1, help="Of a request.")] = 2048,
    max_labels: Annotated[int, _option("--max-labels", envvar="MAX_LABELS", min=1, help="Of a request.")] = 1000,
    fetch_host: Annotated[
        list[str],
        _option(
            "--fetch-host",
            envvar="FETCH_HOST",
            metavar="NAME",
            help="Fetch pictures by https from this host, .example.org: from all below; none: no URL is fetched.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Serve embeddings, classification and search over HTTP, and a page to try them.

    Speaks as OpenAI, Infinity, vLLM and Hugging Face do. Needs the extra `serve`: pip install 'npsiglip[serve]'.
    """
    if not api_key and "NPSIGLIP_API_KEY" in os.environ:  # an empty variable is none to Typer
        raise InputError("NPSIGLIP_API_KEY is empty: give a key, or unset it for a server that asks for none")
    for name, value in (("--timeout", timeout), ("--cache", cache), ("--max-megabytes", max_megabytes)):
        if not math.isfinite(value):
            raise InputError(f"{name} must be a number, got {value}")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before OpenMP starts: threads that spin take others' cores
    listener = _listen(host, port)
    try:
        try:
            with without_collection():
                import uvicorn

                from npsiglip.server.app import create_app
                from npsiglip.server.protocol import PatientProtocol
                from npsiglip.server.settings import LOOPBACK, Settings
        except ImportError as error:
            raise InputError(f"{error.name} is missing, which a server needs: pip install 'npsiglip[serve]'") from None
        settings = Settings(
            tuple(models), index, host, port, tuple(api_key), tuple(allowed_host), dtype, threads, truncate,
            window / 1000, queue, requests, timeout, idle=idle, max_loaded=max_loaded, cache=cache,
            max_bytes=int(max_megabytes * MEGA), max_megapixels=max_megapixels, max_images=max_images,
            max_texts=max_texts, max_labels=max_labels, fetch_hosts=tuple(fetch_host),
        )  # fmt: skip
        if not models and index is None:
            note(BUILTIN_NOTE, "model:", "bold")
        with without_collection():
            app = create_app(settings)
        if host not in LOOPBACK and not api_key:
            warn(f"{host} may be reached by others, and no --api-key is asked for")
        real = listener.getsockname()[1]
        note(f"http://{f'[{host}]' if ':' in host else host}:{real}  (Ctrl-C ends it)", "serving:", "bold")
        config = uvicorn.Config(
            app, http=PatientProtocol, ws="none", log_level="warning",
            access_log=False, server_header=False, h11_max_incomplete_event_size=65536,
            timeout_keep_alive=15, timeout_graceful_shutdown=int(timeout) + 5,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
