"""The delay keeps bytes, order and ends, and adds at least what it was asked to."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from mesh.delay import Delay
from services.host import Address

pytestmark = pytest.mark.asyncio

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def delayed(handler: Handler, rtt_ms: float, window_bytes: int = 1 << 24) -> AsyncIterator[Address]:
    """Yields the address of a delay before a server that runs `handler`."""
    target = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = target.sockets[0].getsockname()[1]
    delay = Delay(Address("127.0.0.1", port), rtt_ms, window_bytes)
    front = await asyncio.start_server(delay.join, "127.0.0.1", 0)
    try:
        yield Address("127.0.0.1", front.sockets[0].getsockname()[1])
    finally:
        front.close()
        await delay.stop()
        target.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def test_a_round_trip_takes_at_least_the_rtt() -> None:
    async with delayed(echo, rtt_ms=30) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        clock = asyncio.get_running_loop().time
        for _ in range(5):
            started = clock()
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            assert clock() - started >= 0.030
        writer.close()


@pytest.mark.parametrize("seed", range(8))
async def test_bytes_are_intact_under_random_chunks(seed: int) -> None:
    rng = random.Random(seed)
    sent = rng.randbytes(rng.randrange(1, 3_000_000))
    async with delayed(echo, rtt_ms=rng.choice([0, 1, 7]), window_bytes=200_000) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)

        async def send() -> None:
            at = 0
            while at < len(sent):
                size = rng.choice([1, 17, 4096, 65_537, 500_000])
                writer.write(sent[at : at + size])
                at += size
                await writer.drain()
                if rng.random() < 0.2:
                    await asyncio.sleep(0)
            writer.write_eof()

        sending = asyncio.create_task(send())
        received = await reader.read(-1)
        await sending
        writer.close()
    assert received == sent


async def test_an_end_of_one_direction_leaves_the_other_open() -> None:
    async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read(-1)
        writer.write(b"heard " + question)
        writer.close()

    async with delayed(answer_after_the_end, rtt_ms=4) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"you")
        writer.write_eof()
        assert await reader.read(-1) == b"heard you"
        writer.close()


async def test_a_broken_target_connection_breaks_the_callers() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        _set_reset_on_close(writer)
        writer.transport.abort()

    async with delayed(break_off, rtt_ms=2) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_a_missing_target_breaks_the_connection_and_not_the_delay() -> None:
    free = await asyncio.start_server(echo, "127.0.0.1", 0)
    nobody = Address("127.0.0.1", free.sockets[0].getsockname()[1])
    free.close()
    await free.wait_closed()
    delay = Delay(nobody, rtt_ms=0, window_bytes=1024)
    front = await asyncio.start_server(delay.join, "127.0.0.1", 0)
    for _ in range(2):
        port = front.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
    front.close()
    await delay.stop()
    assert repr(delay) == f"<Delay {nobody} rtt=0 ms connections=0>"


async def test_a_slow_receiver_stops_the_sender_at_the_window() -> None:
    let_go = asyncio.Event()

    async def read_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await let_go.wait()
        writer.close()

    async with delayed(read_nothing, rtt_ms=0, window_bytes=1 << 16) as address:
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.transport.set_write_buffer_limits(high=1 << 16)

        async def fill() -> None:
            while True:
                writer.write(bytes(1 << 20))
                await writer.drain()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fill(), 0.3)
        let_go.set()
        writer.transport.abort()


async def test_many_connections_do_not_wait_for_each_other() -> None:
    everyone = asyncio.Barrier(50)

    async def echo_together(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = await reader.read(-1)
        await everyone.wait()
        writer.write(text)
        writer.close()

    async with delayed(echo_together, rtt_ms=20) as address:

        async def call(text: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(text)
            writer.write_eof()
            answer = await reader.read(-1)
            writer.close()
            return answer

        texts = [b"%d" % number for number in range(50)]
        assert await asyncio.wait_for(asyncio.gather(*map(call, texts)), 30) == texts


def _set_reset_on_close(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
