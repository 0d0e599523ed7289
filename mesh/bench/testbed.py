"""The testbed's links: how far their round trips are off, and how much they carry."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import time
from statistics import median

from mesh.bench.result import Bar, Result, Row, percentile
from mesh.bench.rig import Rig
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed import Link, TestbedPlan, WiredTestbed, open_testbed
from mesh.testbed.namespace import call_inside
from mesh.testbed.wire_control import read_status
from services.host import Address

_SERVER = (sys.executable, "-P", "-m", "mesh.bench.byte_server")
_DELAYS_MS = (0.0, 1.0, 5.0, 20.0, 50.0)
_PINGS = 200
_ROUNDS = 3
_SECONDS = 2.0
_TIMEOUT_S = 30.0
_CHUNK = bytes(1 << 20)
_RATE_MBIT = 100.0


async def run(rig: Rig) -> Result:
    """Measures round trips of one byte and the throughput of one TCP connection between two hosts."""
    async with Supervisor() as supervisor:
        plan = TestbedPlan(f"bench-{os.getpid()}", (Link("near", "far"),))
        bed = await open_testbed(plan, supervisor, needs_wire=True)
        assert isinstance(bed, WiredTestbed), "nothing else is a wire"
        (server,) = await supervisor.start(
            [bed.place("far", Program("far", (*_SERVER, bed.get_address("far"))))],
        )
        target = Address.parse(server.facts["at"])
        rows: list[Row] = []
        added_ms, early_ms, mib_s = {}, [], {}
        for delay_ms in _DELAYS_MS:
            rig.console.print(f"  {delay_ms:g} ms each way", highlight=False)
            await bed.change("near-far", delay_ms=delay_ms, rate_mbit=0)
            rtts_ms = sorted(await asyncio.to_thread(_ping, bed, target))
            runs = [await asyncio.to_thread(_send, bed, target) for _ in range(_ROUNDS)]
            added_ms[delay_ms] = median(rtts_ms) - 2 * delay_ms
            early_ms.append(2 * delay_ms - rtts_ms[0])
            mib_s[delay_ms] = median(runs)
            rows.append(_row(f"{delay_ms:g} ms each way", rtts_ms, runs))
        await bed.change("near-far", delay_ms=5.0, rate_mbit=_RATE_MBIT)
        limited = [await asyncio.to_thread(_send, bed, target) for _ in range(_ROUNDS)]
        rows.append(_row(f"5 ms, {_RATE_MBIT:g} Mbit/s", [], limited))
        status = await asyncio.to_thread(read_status, plan.name)
    line_mib_s = _RATE_MBIT * 1e6 / 8 / 2**20
    return Result(
        name="testbed",
        rows=rows,
        bars=(
            Bar("median round trip above 2 x 20 ms, ms", 1.0, added_ms[20.0], at_most=True),
            Bar("round trips earlier than the link allows, ms", 0.0, max(0.0, *early_ms), at_most=True),
            Bar("MiB/s of one connection without delay", 100, mib_s[0.0]),
            Bar("MiB/s at 5 ms each way", 60, mib_s[5.0]),
            Bar(f"MiB/s through {_RATE_MBIT:g} Mbit/s / the line's own", 1.0, max(limited) / line_mib_s, at_most=True),
        ),
        notes=(
            f"round trips: {_PINGS} of one byte, one at a time; MiB/s: medians of {_ROUNDS} x {_SECONDS:g} s of one "
            "connection, both ends Python, all on this machine's cores; it starts slowly, as TCP does over distance",
            f"packets were handed over {status['late_us_p50']:g} us (p50), {status['late_us_p99']:g} us (p99) late",
        ),
    )


def _row(name: str, rtts_ms: list[float], runs: list[float]) -> Row:
    row: dict[str, str | float] = {"link": name}
    if rtts_ms:
        row |= {"rtt p50 ms": median(rtts_ms), "p99 ms": percentile(rtts_ms, 99), "min ms": rtts_ms[0]}
    return {**row, "MiB/s": median(runs), "worst": min(runs), "best": max(runs)}


def _ping(bed: WiredTestbed, target: Address) -> list[float]:
    """Returns round trips of one byte, milliseconds."""
    with _connect(bed, target, b"e") as connection:
        taken = []
        for _ in range(_PINGS):
            started = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            taken.append((time.perf_counter() - started) * 1e3)
        return taken


def _send(bed: WiredTestbed, target: Address) -> float:
    """Returns the MiB a second that arrived over one connection."""
    with _connect(bed, target, b"c") as connection:
        started = time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            connection.sendall(_CHUNK)
        connection.shutdown(socket.SHUT_WR)
        (arrived,) = struct.unpack("!q", connection.recv(8, socket.MSG_WAITALL))
        return float(arrived / (time.perf_counter() - started) / 2**20)


def _connect(bed: WiredTestbed, target: Address, wish: bytes) -> socket.socket:
    address = (target.host, target.port)
    connection = call_inside(bed.get_namespace("near"), lambda: socket.create_connection(address, timeout=_TIMEOUT_S))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(wish)
    return connection
