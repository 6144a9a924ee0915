"""uvicorn's HTTP, which waits for nobody for ever: not for a request's head, not for an answer to be read."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0  # for all of a head to come, as for the next request of a connection
READ_SECONDS = 30.0
READ_BYTES = 10_000  # that a client reads in READ_SECONDS at least, while an answer waits for it


class PatientProtocol(H11Protocol):
    """One connection. Who is too slow is cut off: an answer that nobody reads is held in memory."""

    _head: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The head is waited for."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Whether the head is whole."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """The client reads more slowly than is written."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """It has read."""
        self._end_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for."""
        self._end_head()
        self._end_reading()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._end_reading()
        self._reading = self.loop.call_later(READ_SECONDS, self._look, self.transport.get_write_buffer_size())

    def _look(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < READ_BYTES:
            self.transport.abort()
        else:
            self._watch()

    def _end_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _end_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
