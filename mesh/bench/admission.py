"""What deciding about a request costs: alone on a core, and in a node whose engine uses the caches in between."""

from __future__ import annotations

import os
import sys
from statistics import median

from mesh.assets import get_repository
from mesh.bench.requests import write_frame_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import Rig, read_counter
from mesh.bench.traces import fleet, poisson, write_trace

_MODEL = "nanodet"
_SIDE = 416
_SECONDS = 6.0
_LOAD = 1.5
_ROUNDS = 3
# Requests that wait, tenants that share them, and whether caches are cold.
_CASES = ((0, 1, False), (8, 1, False), (64, 8, False), (0, 1, True), (8, 1, True), (64, 8, True))
_USUAL = (8, 1, False)
_ARRIVALS = {"Poisson": poisson, "10 Hz fleet": fleet}


async def run(rig: Rig) -> Result:
    """Measures the median cost of admission, in the scheduler alone and in a node at 1.5 times capacity."""
    found: dict[tuple[int, int, bool], float] = {}
    rows: list[Row] = []
    for case in _CASES:
        found[case], p99_us = await _decide(rig, *case)
        queued, tenants, cold = case
        rows.append(
            {
                "where": "scheduler",
                "queued": queued,
                "tenants": tenants,
                "caches": "cold" if cold else "warm",
                "p50 us": found[case],
                "p99 us": p99_us,
            }
        )
    in_node = {arrivals: [await _decide_in_node(rig, arrivals) for _ in range(_ROUNDS)] for arrivals in _ARRIVALS}
    rows += [
        {"where": f"node, {arrivals}", "caches": "cold", "p50 us": p50_us}
        for arrivals, rounds in in_node.items()
        for p50_us in rounds
    ]
    return Result(
        name="admission",
        rows=rows,
        bars=(
            Bar("median cost of admission with 8 requests waiting, us", 2, found[_USUAL], at_most=True),
            *(
                Bar(f"median cost of admission in a node, {arrivals}, us", 2, median(rounds), at_most=True)
                for arrivals, rounds in in_node.items()
            ),
        ),
        notes=(
            f"half of the scheduler's decisions are refusals; medians of {_ROUNDS} rounds on one core;",
            f"node: {_MODEL} at {_LOAD:g} times capacity, a new one each time; its caches are the convnet's when a",
            "request comes; each agent of the fleet is a stream",
        ),
    )


async def _decide(rig: Rig, queued: int, tenants: int, cold: bool) -> tuple[float, float]:
    """Returns the median and the 99th percentile of decisions in microseconds."""
    flags = [f"--queued={queued}", f"--tenants={tenants}", *(["--cold"] if cold else [])]
    command = (sys.executable, "-P", "-m", "engines.admission_loop", *flags)
    rounds = [await rig.run_json(*command, core=rig.server_core, timeout_s=60) for _ in range(_ROUNDS)]
    return median(r["p50_us"] for r in rounds), median(r["p99_us"] for r in rounds)


async def _decide_in_node(rig: Rig, arrivals: str) -> float:
    """Returns the median of a node under overload in microseconds, as its metrics say."""
    request = write_frame_request(rig.folder, _MODEL, _SIDE, _SIDE)
    node = await rig.start_node(get_repository(os.environ), _MODEL)
    capacity = (await rig.load(node, request, outstanding=3, seconds=2.0)).rps
    trace = _ARRIVALS[arrivals](capacity * _LOAD, _SECONDS, 0.1, seed=7)
    await rig.replay(node, request, write_trace(rig.folder / "trace", trace), seconds=_SECONDS)
    p50_us = await read_counter(node, "starling_admission_seconds_p50") * 1e6
    await rig.stop()
    return p50_us
