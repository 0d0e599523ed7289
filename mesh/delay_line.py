"""Carries bytes from one connection to another, a fixed time later, in order and within a bound."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

READ_BYTES_MAX = 1 << 18


class DelayLine:
    """One direction of a delayed connection.

    What is read at time t is written at t + delay or later, in order, also when the delay changes. At most
    `window_bytes` are under way; then it stops reading, so that the sender feels a slow receiver. The end of the stream
    travels the same way as the bytes.

    Args:
        reader, writer: where bytes come from and go to; of different connections.
        delay_s: returns the time that what is read now stays, >= 0.
        window_bytes: bound of the bytes under way, >= 1. It also bounds the rate to window / delay.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        delay_s: Callable[[], float],
        window_bytes: int,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._delay_s, self._window_bytes = delay_s, window_bytes
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Carries bytes until the reader's end has been passed on to the writer.

        Raises:
            ConnectionError: one side broke; the caller breaks the other.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._fill())
            tasks.create_task(self._empty())

    async def _fill(self) -> None:
        clock = asyncio.get_running_loop().time
        while chunk := await self._reader.read(READ_BYTES_MAX):
            self._put(clock() + self._delay_s(), chunk)
            while self._held_bytes >= self._window_bytes:
                self._room.clear()
                await self._room.wait()
        self._put(clock() + self._delay_s(), b"")

    async def _empty(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            while not self._chunks:
                self._changed.clear()
                await self._changed.wait()
            due, chunk = self._chunks[0]
            if (wait_s := due - clock()) > 0:
                await asyncio.sleep(wait_s)
                continue  # A timer may fire a little early; never hand over before the time.
            self._chunks.popleft()
            if not chunk:
                # A peer that has gone needs no end any more.
                with suppress(OSError):
                    self._writer.write_eof()
                return
            self._writer.write(chunk)
            await self._writer.drain()
            self._held_bytes -= len(chunk)
            self._room.set()

    def _put(self, due: float, chunk: bytes) -> None:
        self._chunks.append((due, chunk))
        self._held_bytes += len(chunk)
        self._changed.set()

    def __repr__(self) -> str:
        """Returns the delay and what is under way."""
        return f"<DelayLine {self._delay_s() * 1e3:g} ms held_bytes={self._held_bytes}>"
