"""A TCP delay: what is sent through it arrives later, so that a near node is felt as far.

Run as its own process: `python -m mesh.delay --listen HOST:PORT --target HOST:PORT --rtt-ms 40`. It prints one line
`ready listen=HOST:PORT` and ends with status 0 after SIGTERM. Lines on standard input change it while it runs:
`target HOST:PORT` and `rtt_ms 80`. Without `--target`, connections wait for the first such line.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from mesh.delay_line import READ_BYTES_MAX, DelayLine
from mesh.interrupt import watch_interrupts
from services.host import Address, SettingsError, at_least, reachable_port, read_settings, setting

_BACKLOG = 256


@dataclass(frozen=True, slots=True)
class DelaySettings:
    """Settings of one delay."""

    env_prefix: ClassVar[str] = "DELAY"

    listen: Address = setting(help="where to listen; port 0 takes a free one")
    target: Address | None = setting(
        None, help="where connections go; without it, the line `target HOST:PORT` tells", check=reachable_port
    )
    rtt_ms: float = setting(40.0, help="round trip to add, milliseconds", check=at_least(0))
    window_bytes: int = setting(
        32 << 20,  # five 1080p frames; 1.6 GB/s at 20 ms one way, more than a loopback needs
        help="most bytes under way per connection and direction",
        check=at_least(1),
    )


class Delay:
    """Accepts connections and joins each to one of its own to the target."""

    def __init__(self, target: Address | None, rtt_ms: float, window_bytes: int) -> None:
        self._target = target
        self._targeted = asyncio.Event()
        if target is not None:
            self._targeted.set()
        self._delay_s = rtt_ms / 2e3
        self._window_bytes = window_bytes
        self._connections: set[asyncio.Task[None]] = set()

    def set_target(self, target: Address) -> None:
        """Sends new connections there, and those that wait."""
        self._target = target
        self._targeted.set()

    def set_rtt_ms(self, rtt_ms: float) -> None:
        """Changes the distance for everything that is sent from now on."""
        self._delay_s = rtt_ms / 2e3

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until both sides have ended; if one breaks, resets the other."""
        task = asyncio.current_task()
        assert task is not None, "a connection is served by its own task"
        self._connections.add(task)
        writers = [writer]
        try:
            # A far target answers the handshake after one round trip.
            await asyncio.sleep(2 * self._delay_s)
            await self._targeted.wait()
            assert self._target is not None, "the event says that there is one"
            far_reader, far_writer = await asyncio.open_connection(
                self._target.host, self._target.port, limit=READ_BYTES_MAX
            )
            writers.append(far_writer)
            async with asyncio.TaskGroup() as both:
                for source, sink in ((reader, far_writer), (far_reader, writer)):
                    line = DelayLine(source, sink, lambda: self._delay_s, self._window_bytes)
                    both.create_task(line.run())
        except* OSError:
            for each in writers:
                _reset(each)
        finally:
            self._connections.discard(task)
            for each in writers:
                each.close()

    async def stop(self) -> None:
        """Breaks all connections and waits until they have ended."""
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __repr__(self) -> str:
        """Returns the target, the delay and the number of connections."""
        rtt = f"{self._delay_s * 2e3:g} ms"
        return f"<Delay {self._target} rtt={rtt} connections={len(self._connections)}>"


async def serve(settings: DelaySettings) -> None:
    """Serves until a signal asks to stop; prints the ready line.

    Raises:
        OSError: the address cannot be listened on.
    """
    delay = Delay(settings.target, settings.rtt_ms, settings.window_bytes)
    async with watch_interrupts() as stop:
        server = await asyncio.start_server(
            delay.join,
            settings.listen.host,
            settings.listen.port,
            limit=READ_BYTES_MAX,
            backlog=_BACKLOG,
        )
        port = server.sockets[0].getsockname()[1]
        print(f"ready listen={settings.listen.with_port(port)}", flush=True)
        steering = asyncio.create_task(_steer(delay))
        await stop.wait()
        steering.cancel()
        server.close()
        await delay.stop()


async def _steer(delay: Delay) -> None:
    """Carries out the lines of standard input until it ends; what it does not know it says on standard error."""
    reader = asyncio.StreamReader()
    try:
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    except ValueError:
        return  # not a pipe: nobody steers
    while line := (await reader.readline()).decode(errors="replace"):
        word, _, value = line.strip().partition(" ")
        try:
            if word == "target":
                delay.set_target(Address.parse(value))
            elif word == "rtt_ms" and float(value) >= 0:
                delay.set_rtt_ms(float(value))
            else:
                raise ValueError(line.strip())
        except ValueError as error:
            print(f"expected `target HOST:PORT` or `rtt_ms NUMBER`, got {error}", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    """Runs the process; returns its exit status."""
    try:
        settings = read_settings(
            DelaySettings, argv, os.environ, prog="python -m mesh.delay", description=__doc__ or ""
        )
    except SettingsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        print(f"cannot listen on {settings.listen}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _reset(writer: asyncio.StreamWriter) -> None:
    """Makes the peer see a broken connection instead of an orderly end."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            lingers_for_0_s = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers_for_0_s)
    writer.transport.abort()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
