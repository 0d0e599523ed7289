"""Answers in time under overload: our scheduler, arrival order on the same server and engine, and Triton."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

from mesh.assets import get_repository
from mesh.bench.oip import MODEL_INFER
from mesh.bench.repositories import copy_model
from mesh.bench.requests import make_frames, write_frame_request, write_oip_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import PREDICT, Rig, read_counter
from mesh.bench.traces import Arrival, bursts, daily, fleet, poisson, write_trace
from mesh.bench.triton import TritonMissing, ensure_triton, nanodet_model, start_triton
from mesh.child import Child
from services.host import StatusCode

_MODEL = "nanodet"
_SIDE = 416
_DEADLINE_S = 0.1
_SECONDS = 6.0
_LOADS = (1.0, 1.5, 2.0)
_JUDGED = "poisson"
_SEEDS = (7, 8, 9)  # of the rounds that bars are judged by; other traces have the first only
_CAPACITY_SECONDS = 2.0
_OURS, _FIFO, _TRITON = "deadline", "fifo", "Triton"
# As `starling-replay` counts them: by the number of the status.
_AT_ONCE = tuple(str(int(code)) for code in (StatusCode.RESOURCE_EXHAUSTED, StatusCode.ABORTED))
_TIMED_OUT = str(int(StatusCode.DEADLINE_EXCEEDED))

_TRACES: Mapping[str, Callable[..., list[Arrival]]] = {
    _JUDGED: poisson,
    "10 Hz fleet": fleet,
    "10x bursts": bursts,
    "daily": daily,
}


@dataclass(frozen=True, slots=True)
class _Target:
    """A server and the request that it takes."""

    child: Child
    request: Path
    method: str = PREDICT


async def run(rig: Rig) -> Result:
    """Measures answers inside a 100 ms deadline at 1.0, 1.5 and 2 times capacity, deadline order against others."""
    source = get_repository(os.environ)
    request = write_frame_request(rig.folder, _MODEL, _SIDE, _SIDE)
    targets: dict[str, _Target] = {}
    for discipline in (_OURS, _FIFO):
        repository = copy_model(source, _MODEL, rig.folder / discipline, {"starling.discipline": discipline})
        targets[discipline] = _Target(await rig.start_node(repository, _MODEL), request)
    notes = [
        f"{_MODEL} INT8 at {_SIDE}x{_SIDE} on one core; traces of {_SECONDS:.0f} s, the same for all; capacity is the",
        f"mean of closed loops of {_CAPACITY_SECONDS:.0f} s on our server right before and after its trace; bars are",
        "medians of rounds; FIFO drops what its callers cancel",
    ]
    try:
        targets[_TRITON] = await _start_triton(rig, source / _MODEL / "1" / "model.onnx")
        notes.append("Triton: its Python backend, the only one in its package, runs the same graph by OpenVINO with")
        notes.append("dynamic batching; it has no streams, so no frame of a fleet takes another's place")
    except TritonMissing as error:
        notes.append(f"Triton not measured: {error}")
    rows: list[Row] = []
    shares: defaultdict[tuple[str, float, str], list[float]] = defaultdict(list)

    async def measure_capacity() -> float:
        return (await rig.load(targets[_OURS].child, request, outstanding=3, seconds=_CAPACITY_SECONDS)).rps

    for trace, make in _TRACES.items():
        for load, seed in itertools.product(_LOADS, _SEEDS if trace == _JUDGED else _SEEDS[:1]):
            before = await measure_capacity()
            arrivals = make(before * load, _SECONDS, _DEADLINE_S, seed=seed)
            outcomes = {_OURS: await _replay(rig, targets[_OURS], arrivals)}
            capacity = mean((before, await measure_capacity()))
            outcomes |= {
                name: await _replay(rig, target, arrivals) for name, target in targets.items() if name != _OURS
            }
            for name in targets:
                shares[trace, load, name].append(_rate(outcomes[name]) / capacity)
                row = _row(trace, load, name, outcomes[name], capacity)
                if row["failed"]:
                    notes.append(f"{name} failed at {load:g}x, {trace}: {outcomes[name]['first_error']}")
                rows.append(row)
    expired = await read_counter(targets[_OURS].child, "starling_expired_executed_total")
    admission_us = await read_counter(targets[_OURS].child, "starling_admission_seconds_p50") * 1e6
    return Result(name="goodput", rows=rows, bars=_bars(shares, expired, admission_us), notes=notes)


async def _start_triton(rig: Rig, graph: Path) -> _Target:
    package = await ensure_triton(rig.console)
    child = await start_triton(rig, package, [nanodet_model(graph, _MODEL)])
    request = write_oip_request(rig.folder / f"{_MODEL}.oip", _MODEL, make_frames(1, _SIDE, _SIDE))
    target = _Target(child, request, MODEL_INFER)
    await rig.call(child, request, MODEL_INFER)  # fails here and not in the middle of a trace
    return target


async def _replay(rig: Rig, target: _Target, arrivals: Sequence[Arrival]) -> Mapping[str, Any]:
    # Streams are fields of our request; the Open Inference Protocol has none.
    known = arrivals if target.method == PREDICT else [replace(arrival, stream=-1) for arrival in arrivals]
    file = write_trace(rig.folder / "trace", known)
    return await rig.replay(target.child, target.request, file, seconds=_SECONDS, method=target.method)


def _rate(outcome: Mapping[str, Any]) -> float:
    # The last answers come up to a deadline after the last arrival.
    return float(outcome["met"]) / (_SECONDS + _DEADLINE_S)


def _bars(shares: Mapping[tuple[str, float, str], Sequence[float]], expired: float, admission_us: float) -> list[Bar]:
    ours = shares[_JUDGED, 1.5, _OURS]

    def times(name: str) -> float:
        # Nothing in time at all counts as a hundredth of capacity.
        theirs = shares[_JUDGED, 1.5, name]
        return median(our / max(their, 0.01) for our, their in zip(ours, theirs, strict=True))

    bars = [
        Bar("goodput / FIFO's at 1.5x, Poisson", 2, times(_FIFO)),
        Bar("goodput / capacity at 1.5x, Poisson", 0.9, median(ours)),
        Bar("goodput / capacity at 2x, Poisson", 0.9, median(shares[_JUDGED, 2.0, _OURS])),
        Bar("requests run after their deadline", 0, expired, at_most=True),
        Bar("median cost of admission, us", 2, admission_us, at_most=True),
    ]
    if (_JUDGED, 1.5, _TRITON) in shares:
        bars.insert(1, Bar("goodput / Triton's at 1.5x, Poisson", 2, times(_TRITON)))
    return bars


def _row(trace: str, load: float, server: str, outcome: Mapping[str, Any], capacity: float) -> Row:
    met, refused = outcome["met"], outcome["refused"]
    at_once = sum(refused.get(code, 0) for code in _AT_ONCE)
    timed_out = refused.get(_TIMED_OUT, 0)
    return {
        "trace": trace,
        "load": load,
        "server": server,
        "sent": outcome["sent"],
        "met": met,
        "of capacity": _rate(outcome) / capacity,
        "late": outcome["late"],
        "refused at once": at_once,
        "timed out": timed_out,
        "failed": sum(refused.values()) - at_once - timed_out,
        "p50 ms": outcome["p50_us"] / 1e3,
        "p99 ms": outcome["p99_us"] / 1e3,
    }
