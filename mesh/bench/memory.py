"""Resident memory of a node over many requests."""

from __future__ import annotations

from mesh.bench.requests import write_echo_repository, write_echo_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import Rig, read_rss_bytes

_REQUESTS = 200_000
_STEPS = 4
_SMALL_FIRST = 20_000
_LIMIT_S = 300.0


async def run(rig: Rig) -> Result:
    """Measures a node after a first share of the requests and after all of them."""
    repository = write_echo_repository(rig.folder)
    request = write_echo_request(rig.folder)
    node = await rig.start_node(repository, "echo")
    rows: list[Row] = []
    first = 0
    sent = 0
    for count in (_SMALL_FIRST, *[(_REQUESTS - _SMALL_FIRST) // _STEPS] * _STEPS):
        await rig.load(node, request, outstanding=16, seconds=_LIMIT_S, requests_max=count)
        sent += count
        rss = read_rss_bytes(node.pid)
        first = first or rss
        rows.append({"requests": sent, "resident MiB": rss / 2**20})
    grown = (read_rss_bytes(node.pid) - first) / first
    return Result(
        name="memory",
        rows=rows,
        bars=(
            Bar(
                f"growth of resident memory from {_SMALL_FIRST:,} to {_REQUESTS:,} requests", 0.02, grown, at_most=True
            ),
        ),
    )
