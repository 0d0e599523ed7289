"""Answers in time under overload: our scheduler against arrival order on the same server and engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from mesh.assets import get_repository
from mesh.bench.repositories import copy_model
from mesh.bench.requests import write_frame_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import Rig, read_counter
from mesh.bench.traces import Arrival, bursts, daily, fleet, poisson, write_trace
from mesh.child import Child

_MODEL = "nanodet"
_SIDE = 416
_DEADLINE_S = 0.1
_SECONDS = 8.0
_LOADS = (1.0, 1.5, 2.0)
_CAPACITY_ROUNDS = 3

_TRACES: Mapping[str, Callable[..., list[Arrival]]] = {
    "poisson": poisson,
    "10 Hz fleet": fleet,
    "10x bursts": bursts,
    "daily": daily,
}


async def run(rig: Rig) -> Result:
    """Measures answers inside a 100 ms deadline at 1.0, 1.5 and 2 times capacity, deadline order against FIFO."""
    source = get_repository(os.environ)
    request = write_frame_request(rig.folder, _MODEL, _SIDE, _SIDE)
    nodes: dict[str, Child] = {}
    for discipline in ("deadline", "fifo"):
        repository = copy_model(source, _MODEL, rig.folder / discipline, {"starling.discipline": discipline})
        nodes[discipline] = await rig.start_node(repository, _MODEL)
    found = [
        (await rig.load(nodes["deadline"], request, outstanding=3, seconds=3.0)).rps for _ in range(_CAPACITY_ROUNDS)
    ]
    capacity = median(found)
    rows: list[Row] = []
    goodput: dict[tuple[str, float, str], float] = {}
    for name, make in _TRACES.items():
        for load in _LOADS:
            trace = make(capacity * load, _SECONDS, _DEADLINE_S, seed=7)
            file = write_trace(rig.folder / "trace", trace)
            for discipline, node in nodes.items():
                outcome = await rig.replay(node, request, file, seconds=_SECONDS)
                goodput[name, load, discipline] = outcome["met"] / _SECONDS
                rows.append(_row(name, load, discipline, outcome, capacity))
    expired = await read_counter(nodes["deadline"], "starling_expired_executed_total")
    admission_us = await read_counter(nodes["deadline"], "starling_admission_seconds_p50") * 1e6
    ours, fifo = goodput["poisson", 1.5, "deadline"], goodput["poisson", 1.5, "fifo"]
    return Result(
        name="goodput",
        rows=rows,
        bars=(
            Bar("goodput / FIFO's at 1.5x, Poisson", 2, ours / max(fifo, 1 / _SECONDS)),
            Bar("goodput / capacity at 1.5x, Poisson", 0.9, ours / capacity),
            Bar("goodput / capacity at 2x, Poisson", 0.9, goodput["poisson", 2.0, "deadline"] / capacity),
            Bar("requests run after their deadline", 0, expired, at_most=True),
            Bar("median cost of admission, us", 2, admission_us, at_most=True),
        ),
        notes=(
            f"{_MODEL} INT8 at {_SIDE}x{_SIDE} on one core; capacity, measured by a closed loop, is {capacity:.1f}/s;",
            f"traces of {_SECONDS:.0f} s, the same for both; FIFO drops what its callers cancel, as other servers do",
        ),
    )


def _row(name: str, load: float, discipline: str, outcome: Mapping[str, Any], capacity: float) -> Row:
    met = outcome["met"]
    return {
        "trace": name,
        "load": load,
        "order": discipline,
        "sent": outcome["sent"],
        "met": met,
        "of capacity": met / _SECONDS / capacity,
        "late": outcome["late"],
        "refused at once": outcome["refused"].get("8", 0) + outcome["refused"].get("10", 0),
        "timed out": outcome["refused"].get("4", 0),
        "p50 ms": outcome["p50_us"] / 1e3,
        "p99 ms": outcome["p99_us"] / 1e3,
    }
