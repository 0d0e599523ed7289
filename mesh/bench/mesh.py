"""Three nodes of which the near one slows down eightfold and recovers: five ways to choose between them.

One edge node that computes two requests at a time and two cloud nodes that compute eight, 30 and 60 ms away; each
takes 10 ms. 120 requests a second are sent, whether or not earlier ones were answered. At 6 s the edge needs 80 ms, so
that it can do a fifth of what it is asked; at 14 s it needs 10 ms again. The others are plain Envoy before nodes with
the usual long queue; with ours, half as many requests may wait at a node as it computes at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc
from starling.predict.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    predict_service_pb2,
    predict_service_pb2_grpc,
)
from starling.tensor.v1.tensor_pb2 import DATA_TYPE_FP32

from mesh.bench.envoy_stats import read_stats
from mesh.bench.predicted import Measured, measure_idle, simulate
from mesh.bench.repositories import Pace, write_identity
from mesh.bench.result import Bar, Result, Row, percentile
from mesh.bench.rig import BenchFailed, Rig
from mesh.control.simulation import Answer
from mesh.local_mesh import LocalMesh, MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.host import Address

_RATE = 120.0
_SLOW_S, _RECOVER_S, _END_S = 6.0, 14.0, 23.0
_FAR_MS = (30, 60)
_FAST_MS, _SLOW_MS = 10, 80
_DEADLINE_S = 10.0
_FLOATS = 4
_WINDOWS = {
    "before": (3.0, _SLOW_S),
    "slow 0-3 s": (_SLOW_S, _SLOW_S + 3),
    "slow 3+ s": (_SLOW_S + 3, _RECOVER_S),
    "after 4+ s": (_RECOVER_S + 4, _END_S),
}
_LONG_QUEUE = 2000
_EDGE_WORKERS, _CLOUD_WORKERS = 2, 8
_CLOUD_VERSION, _SLOW_VERSION = 2, 3


@dataclass(frozen=True, slots=True)
class _Contender:
    name: str
    flags: tuple[str, ...]
    bounded: bool = False

    def queue_max(self, workers: int) -> int:
        """Returns how many requests may wait at a node."""
        return workers // 2 if self.bounded else _LONG_QUEUE


_CSWRR = "CSWRR with ORCA"
_CONTENDERS = (
    _Contender("round robin", ("--balancer", "round_robin", "--equal-weights")),
    _Contender("least request", ("--balancer", "least_request", "--equal-weights")),
    _Contender("ring hash", ("--balancer", "ring_hash", "--equal-weights")),
    _Contender(_CSWRR, ("--balancer", "client_side_weighted_round_robin", "--equal-weights")),
    _Contender("Starling", (), bounded=True),
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen in one window."""

    p50_ms: float
    p95_ms: float
    share: float

    def __str__(self) -> str:
        """Returns a cell of the table."""
        return f"{self.p50_ms:.0f}/{self.p95_ms:.0f} {self.share:.0%}"


@dataclass(frozen=True, slots=True)
class _Played:
    """One contender's run."""

    answers: Sequence[Answer]
    lag_s: float
    pushes: int
    idle: Measured | None  # of ours
    reports: int  # of nodes' load, which the gateway has asked for


async def run(rig: Rig) -> Result:
    """Replays a node that slows down and recovers, with five ways to choose nodes; simulates ours too."""
    rows: list[Row] = []
    ours: dict[str, _Seen] = {}
    failed = reports = 0
    for contender in _CONTENDERS:
        played = await _play(rig.folder / contender.name.replace(" ", "-"), contender)
        if (played.reports > 0) != (contender.name == _CSWRR):
            raise BenchFailed(f"with {contender.name}, {played.reports} load reports of nodes reached the gateway")
        reports += played.reports
        answers = played.answers
        broken = sum(not answer.node for answer in answers)
        row: dict[str, str | float | int] = {"gateway": contender.name}
        for window, (begin_s, end_s) in _WINDOWS.items():
            seen = _look(answers, begin_s, end_s)
            row[window] = str(seen)
            if contender.bounded:
                ours[window] = seen
        late_ms = round(played.lag_s * 1e3, 1)
        rows.append({**row, "failed": broken, "changes": played.pushes, "generator late ms": late_ms})
        failed = broken
    assert played.idle is not None, "the last contender is ours"
    predicted = _predict(played.idle)
    rows.append({"gateway": "Starling, simulated", **{window: str(seen) for window, seen in predicted.items()}})
    errors = [_error(predicted[window], ours[window]) for window in _WINDOWS]
    return Result(
        name="mesh",
        rows=rows,
        bars=(
            Bar("Starling: p95 before, ms", 20, ours["before"].p95_ms, at_most=True),
            Bar("Starling: p95 in the first 3 s of a slow edge, ms", 100, ours["slow 0-3 s"].p95_ms, at_most=True),
            Bar("Starling: p95 while the edge is slow, ms", 90, ours["slow 3+ s"].p95_ms, at_most=True),
            Bar("Starling: p95 after it recovered, ms", 20, ours["after 4+ s"].p95_ms, at_most=True),
            Bar("Starling: failed requests", 0, failed, at_most=True),
            Bar("Starling: p50 and p95 of the simulator / measured, the worst, off by", 0.2, max(errors), at_most=True),
        ),
        notes=(
            "cells: p50/p95 in ms and the edge's share of the answers",
            f"{reports} load reports of nodes reached the gateway of CSWRR, none that of another",
            "nodes answer after a set time without computing, so that the machine's cores do not decide",
            f"simulated from times of idle nodes, asked directly; the gateway adds {1e3 * played.idle.hop_s:.2f} ms",
        ),
    )


def _predict(idle: Measured) -> dict[str, _Seen]:
    """Returns what the simulator sees in each window, the median of its runs."""
    workers = dict.fromkeys(idle.nodes, _CLOUD_WORKERS) | {"edge-1": _EDGE_WORKERS}
    slow = (_SLOW_S, _RECOVER_S, (_SLOW_MS - _FAST_MS) / 1e3)
    arrivals = [i / _RATE for i in range(int(_END_S * _RATE))]
    runs = simulate(idle, workers, _CONTENDERS[-1].queue_max, slow, arrivals)
    found = {}
    for window, bounds in _WINDOWS.items():
        seen = [_look(answers, *bounds) for answers in runs]
        found[window] = _Seen(*(median(getattr(one, name) for one in seen) for name in _Seen.__slots__))
    return found


def _error(predicted: _Seen, measured: _Seen) -> float:
    pairs = ((predicted.p50_ms, measured.p50_ms), (predicted.p95_ms, measured.p95_ms))
    return max(abs(one / other - 1) for one, other in pairs)


def _look(answers: Sequence[Answer], begin_s: float, end_s: float) -> _Seen:
    seen = [a for a in answers if begin_s <= a.at_s < end_s and a.node]
    share = sum(a.node == "edge-1" for a in seen) / max(1, len(seen))
    times_ms = [answer.latency_s * 1e3 for answer in seen]
    return _Seen(percentile(times_ms, 50), percentile(times_ms, 95), share)


async def _play(folder: Path, contender: _Contender) -> _Played:
    repository = folder / "models"
    _write_model(repository, 1, _FAST_MS, _EDGE_WORKERS, contender)
    plan = MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=repository,
        models=("work",),
        edges=1,
        clouds=len(_FAR_MS),
        rtt_ms=_FAR_MS[0],
        run_dir=folder,
        control_flags=contender.flags,
    )
    async with Supervisor() as supervisor:
        mesh = await start_mesh(supervisor, plan)
        for i, rtt_ms in enumerate(_FAR_MS):
            mesh.delays[f"cloud-{i + 1}"].send_line(f"rtt_ms {rtt_ms}")
        _write_model(repository, _CLOUD_VERSION, _FAST_MS, _CLOUD_WORKERS, contender)
        for node in mesh.nodes[1:]:
            await _load(node.grpc, _CLOUD_VERSION)
        _write_model(repository, _SLOW_VERSION, _SLOW_MS, _EDGE_WORKERS, contender)
        # Only ours is simulated, and only it may be relied on to send requests to the near node.
        idle = await measure_idle(mesh, _build_request()) if contender.bounded else None
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(_ask(mesh.gateway))
            tasks.create_task(_slow_down(mesh.nodes[0].grpc))
        answers, lag_s = asking.result()
        reports = await read_stats(mesh.admin, "lb_orca_oob.reports_received")
        return _Played(answers, lag_s, await _count_pushes(mesh), idle, sum(reports.values()))


async def _ask(gateway: Address) -> tuple[list[Answer], float]:
    """Sends requests at their times; returns what became of them, and how late the latest was sent."""
    answers: list[Answer] = []
    request = _build_request()
    async with grpc.aio.insecure_channel(str(gateway)) as channel:
        stub: Any = predict_service_pb2_grpc.PredictServiceStub(channel)
        began_s = time.monotonic()

        async def ask(due_s: float, agent: int) -> None:
            try:
                answer = await stub.Predict(request, timeout=_DEADLINE_S, metadata=(("x-agent-id", str(agent)),))
                node = answer.node
            except grpc.aio.AioRpcError:
                node = ""
            answers.append(Answer(due_s, time.monotonic() - began_s - due_s, node))

        late_s = 0.0
        async with asyncio.TaskGroup() as tasks:
            for i in range(int(_END_S * _RATE)):
                due_s = i / _RATE
                wait_s = due_s - (time.monotonic() - began_s)
                await asyncio.sleep(max(0.0, wait_s))
                late_s = max(late_s, time.monotonic() - began_s - due_s)
                tasks.create_task(ask(due_s, i % 24))
    return answers, late_s


def _build_request() -> Any:
    request = predict_service_pb2.PredictRequest(model_name="work")
    request.inputs.add(name="x", data_type=DATA_TYPE_FP32, shape=[1, _FLOATS], data=bytes(4 * _FLOATS))
    return request


async def _slow_down(edge: Address) -> None:
    """Loads a slow version of the model on the edge, which then answers, and unloads it again."""
    await asyncio.sleep(_SLOW_S)
    await _load(edge, _SLOW_VERSION)
    await asyncio.sleep(_RECOVER_S - _SLOW_S)
    async with grpc.aio.insecure_channel(str(edge)) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_service_pb2.UnloadModelRequest(name="work", version=_SLOW_VERSION)
        await stub.UnloadModel(request, timeout=30)


async def _load(node: Address, version: int) -> None:
    """Loads a version, which answers from then on whoever asks for none."""
    async with grpc.aio.insecure_channel(str(node)) as channel:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        await stub.LoadModel(model_service_pb2.LoadModelRequest(name="work", version=version), timeout=30)


async def _count_pushes(mesh: LocalMesh) -> int:
    async with grpc.aio.insecure_channel(str(mesh.control)) as channel:
        stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
        seen = await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=5)
        return sum(gateway.pushed_count for gateway in seen.gateways)


def _write_model(repository: Path, version: int, delay_ms: int, workers: int, contender: _Contender) -> None:
    pace = Pace(delay_ms, workers, contender.queue_max(workers))
    write_identity(repository, "work", _FLOATS, version=version, pace=pace)
