"""Clients that send nothing, and clients that read nothing."""

import asyncio
import contextlib

import pytest
import uvicorn
from uvicorn.server import ServerState

from npsiglip.server import protocol

BIG = 50_000_000  # bytes: more than the buffers of the system


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(BIG).encode())]})
    await send({"type": "http.response.body", "body": bytes(BIG)})


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "READ_SECONDS", 0.2)


@contextlib.asynccontextmanager
async def connection():
    """A state of a server, and a client's reader and writer."""
    config, state = uvicorn.Config(app, log_config=None, timeout_keep_alive=1), ServerState()
    config.load()
    made = await asyncio.get_running_loop().create_server(
        lambda: protocol.PatientProtocol(config, state, {}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname(), limit=2**16)
    try:
        yield state, reader, writer
    finally:
        writer.transport.abort()
        made.close()


async def gone(state, seconds=5):
    async with asyncio.timeout(seconds):
        while state.connections:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: "])
def test_a_head_that_does_not_come(sent):
    async def main():
        async with connection() as (state, reader, writer):
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            await gone(state)

    asyncio.run(main())


def test_an_answer_that_nobody_reads():
    async def main():
        async with connection() as (state, _, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.sleep(0.1)
            assert state.connections
            await gone(state)

    asyncio.run(main())


def test_a_slow_reader_has_all_of_the_answer():
    async def main():
        async with connection() as (_, reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.1)
            size = 0
            while size < BIG:
                part = await reader.read(2**20)
                assert part
                if size // 10_000_000 != (size + len(part)) // 10_000_000:
                    await asyncio.sleep(0.1)  # several times READ_SECONDS in all
                size += len(part)

    asyncio.run(main())
