"""Small requests: the native server against grpc.aio and against a bare C++ echo."""

from __future__ import annotations

from statistics import median

from mesh.bench.requests import write_echo_repository, write_echo_request
from mesh.bench.result import Bar, Result, Row, spread
from mesh.bench.rig import Load, Rig

_OUTSTANDING = (1, 16, 64)
_ROUNDS = 5
_SECONDS = 1.5


async def run(rig: Rig) -> Result:
    """Measures requests per second of 64 floats, servers taking turns so that noise meets all of them."""
    request = write_echo_request(rig.folder)
    servers = {
        "starling": await rig.start_node(write_echo_repository(rig.folder), "echo"),
        "grpc.aio": await rig.start_aio(),
        "C++ echo": await rig.start_echo(),
    }
    loads: dict[tuple[str, int], list[Load]] = {}
    for _ in range(_ROUNDS):
        for outstanding in _OUTSTANDING:
            for name, server in servers.items():
                load = await rig.load(server, request, outstanding=outstanding, seconds=_SECONDS)
                loads.setdefault((name, outstanding), []).append(load)
    rows: list[Row] = []
    for (name, outstanding), runs in loads.items():
        rps = spread([run.rps for run in runs])
        rows.append(
            {
                "server": name,
                "outstanding": outstanding,
                "requests/s": rps["median"],
                "min": rps["min"],
                "max": rps["max"],
                "p50 us": median(run.p50_us for run in runs),
                "p99 us": median(run.p99_us for run in runs),
            }
        )

    def rps_of(name: str, outstanding: int = 16) -> float:
        return median(run.rps for run in loads[name, outstanding])

    added_us = median(r.p50_us for r in loads["starling", 1]) - median(r.p50_us for r in loads["C++ echo", 1])
    return Result(
        name="unary",
        rows=rows,
        bars=(
            Bar("requests/s of 64 floats at 16 outstanding", 40_000, rps_of("starling")),
            Bar("requests/s / grpc.aio's at 16 outstanding", 8, rps_of("starling") / rps_of("grpc.aio")),
            Bar("requests/s / bare C++ echo's at 16 outstanding", 0.7, rps_of("starling") / rps_of("C++ echo")),
            Bar("p50 above the bare C++ echo at 1 outstanding, us", 30, added_us, at_most=True),
        ),
        notes=(f"medians of {_ROUNDS} rounds of {_SECONDS} s; server on one core, C++ load generator on another",),
    )
