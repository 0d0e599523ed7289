"""The tiny policy network on one core: a node, Triton, a bare C++ echo, and a bare loop of the same engine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starling.predict.v1.predict_service_pb2 import PredictResponse

from mesh.assets import get_repository
from mesh.bench.locked_packages import NotAvailable
from mesh.bench.oip import MODEL_INFER, read_infer_response
from mesh.bench.requests import make_observations, write_oip_request, write_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import BenchFailed, Load, Rig
from mesh.bench.target import Target, describe_loads, describe_rates
from mesh.bench.triton import ensure_triton, raptor_model, start_triton

_MODEL = "raptor"
_STARLING, _ECHO, _TRITON = "starling", "C++ echo", "Triton"
_TRITON_DELAYS_US = (0, 100)
_ROWS = 32
# Observations in one message and messages outstanding.
_POINTS = ((1, 1), (1, 16), (1, 64), (_ROWS, 16), (_ROWS, 64))
_ROUNDS = 5
_SECONDS = 1.0
_TOLERANCE = 1e-4


_Loads = dict[tuple[str, int, int], list[Load]]


async def run(rig: Rig) -> Result:
    """Measures requests per second of a policy network beside Triton, and rows beside a bare loop."""
    repository = get_repository(os.environ)
    graph = repository / _MODEL / "1" / "model.onnx"
    targets = await _start_ours(rig, repository)
    notes = ["rows: observations in one message; calls: messages outstanding at any time"]
    notes.append(f"medians of {_ROUNDS} rounds of {_SECONDS:g} s; server on one core, C++ load generator on another")
    try:
        tritons = await _start_tritons(rig, graph)
        for triton in tritons:
            await _check_same_answers(rig, targets[0], triton)
        targets += tritons
        notes.append("Triton: its Python backend, the only one in its package, runs the same graph by OpenVINO;")
        notes.append("dynamic batching with two delays, the better one counts")
    except NotAvailable as error:
        notes.append(f"Triton not measured: {error}")
    loads: _Loads = {}
    bare: list[float] = []
    for _ in range(_ROUNDS):
        for rows, outstanding in _POINTS:
            for target in targets:
                load = await target.load(rig, rows, outstanding=outstanding, seconds=_SECONDS, notes=notes)
                loads.setdefault((target.name, rows, outstanding), []).append(load)
        bare.append(await _run_bare(rig, graph))
    notes.append("the bare loop is C++ around the node's own engine")
    return Result(name="policy", rows=_rows(loads, bare), bars=_bars(loads, bare), notes=notes)


async def _start_ours(rig: Rig, repository: Path) -> list[Target]:
    requests = {
        rows: write_request(rig.folder / f"{_MODEL}-{rows}.request", _MODEL, make_observations(rows))
        for rows in (1, _ROWS)
    }
    return [
        Target(_STARLING, await rig.start_node(repository, _MODEL), requests),
        Target(_ECHO, await rig.start_echo(), requests),
    ]


async def _start_tritons(rig: Rig, graph: Path) -> list[Target]:
    """Returns one target per batching delay, all in one server."""
    package = await ensure_triton(rig.console)
    names = {delay_us: f"{_MODEL}_{delay_us}us" for delay_us in _TRITON_DELAYS_US}
    child = await start_triton(rig, package, [raptor_model(graph, name, delay) for delay, name in names.items()])
    targets = []
    for delay_us, name in names.items():
        requests = {
            rows: write_oip_request(rig.folder / f"{name}-{rows}.oip", name, make_observations(rows))
            for rows in (1, _ROWS)
        }
        targets.append(Target(f"{_TRITON} {delay_us} us", child, requests, MODEL_INFER, restarts=True))
    return targets


async def _check_same_answers(rig: Rig, ours: Target, theirs: Target) -> None:
    """Checks that two servers answer alike, so that neither is quick by answering nothing.

    Raises:
        BenchFailed: they do not.
    """
    response = PredictResponse.FromString(await rig.call(ours.child, ours.requests[_ROWS]))
    expected = [np.frombuffer(tensor.data, "<f4").reshape(tensor.shape) for tensor in response.outputs]
    found = read_infer_response(await rig.call(theirs.child, theirs.requests[_ROWS], theirs.method))
    if not _alike(list(found.values()), expected):
        raise BenchFailed(f"{theirs.name} answers otherwise than {ours.name}; its figures would mean nothing")


def _alike(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> bool:
    return [a.shape for a in found] == [a.shape for a in expected] and all(
        np.allclose(a, b, atol=_TOLERANCE) for a, b in zip(found, expected, strict=True)
    )


async def _run_bare(rig: Rig, graph: Path) -> float:
    """Returns rows per second of the engine alone."""
    shapes = [f"--shape={','.join(map(str, array.shape))}" for array in make_observations(_ROWS).values()]
    command = (sys.executable, "-P", "-m", "engines.bare_loop", "--native", "--model", str(graph), *shapes)
    loop = await rig.run_json(*command, f"--seconds={_SECONDS}", core=rig.server_core, timeout_s=60)
    return float(loop["rows_per_s"])


def _rows(loads: _Loads, bare: Sequence[float]) -> list[Row]:
    table: list[Row] = [
        {"server": name, "rows": rows, "calls": outstanding, **describe_loads(runs)}
        for (name, rows, outstanding), runs in loads.items()
    ]
    loop = describe_rates([rate / _ROWS for rate in bare])
    return [*table, {"server": "bare loop", "rows": _ROWS, "calls": "", **loop}]


def _bars(loads: _Loads, bare: Sequence[float]) -> list[Bar]:
    def rps(name: str, rows: int, outstanding: int) -> float:
        return median(run.rps for run in loads[name, rows, outstanding])

    bars = [
        Bar(
            "requests/s / bare C++ echo's of the same bytes at 64 outstanding",
            0.7,
            rps(_STARLING, 1, 64) / rps(_ECHO, 1, 64),
        ),
        Bar(
            f"rows/s with {_ROWS} observations in a message / the bare engine loop, 64 outstanding",
            0.5,
            rps(_STARLING, _ROWS, 64) * _ROWS / median(bare),
        ),
    ]
    tritons = [rps(*key) for key in loads if key[0].startswith(_TRITON) and key[1:] == (1, 64)]
    if tritons:
        bars.insert(0, Bar("requests/s / Triton's at 64 outstanding", 5, rps(_STARLING, 1, 64) / max(tritons)))
    return bars
