"""Nodes that are killed, one that stops, and a control plane that is killed, under one steady load."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc

from mesh.bench.envoy_stats import read_stats
from mesh.bench.faults.asking import Asking, Outcome, describe_latencies
from mesh.bench.faults.work import build_request, plan_work
from mesh.bench.result import Bar, Row
from mesh.bench.rig import BenchFailed
from mesh.local_mesh import LocalMesh, start_mesh
from mesh.supervisor import Supervisor
from services.client import AsyncClient

_EDGES, _CLOUDS = 5, 1
_DELAY_MS, _WORKERS = 30, 8
_RATE, _AGENTS = 200.0, 20
_DEADLINE_S = 10.0  # longer than a stopped node stays stopped: who waits for it is seen to wait
_KILLED = 3
_EVERY_S, _AWAY_S, _SETTLE_S = 2.0, 2.0, 4.0
_STOPPED_S = 6.0  # longer than the gateway takes to give up a connection on which nothing comes: 4 s
_HELD_S = 1.0  # who waits so long for an answer waits for a node that is stopped: idle ones take a tenth of it
_BETWEEN_S = 0.5  # what was asked before a fault has been answered when it begins
_RESUME_S_MAX = 15.0
_RETRIES = "cluster.nodes.upstream_rq_retry"


@dataclass(frozen=True, slots=True)
class _Phase:
    """One fault: when it began and ended, and what the gateway had to repeat meanwhile."""

    name: str
    begin_s: float
    end_s: float
    retries: dict[str, int]
    note: str = ""


async def measure_nodes(folder: Path) -> tuple[list[Row], list[Bar]]:
    """Kills three of six nodes, stops another for six seconds, and kills the control plane and starts it again."""
    plan = plan_work(folder, _DELAY_MS, _WORKERS, edges=_EDGES, clouds=_CLOUDS, rtt_ms=_DELAY_MS)
    async with Supervisor() as supervisor, AsyncExitStack() as stack:
        mesh = await start_mesh(supervisor, plan)
        agents = [await stack.enter_async_context(AsyncClient(str(mesh.gateway))) for _ in range(_AGENTS)]
        async with Asking(agents, build_request(), _RATE, _DEADLINE_S) as asking:
            await asyncio.sleep(_SETTLE_S)  # until weights and gaps are known
            killing = await _phase(mesh, f"kill -9 of {_KILLED} nodes of 6", _kill_nodes(mesh))
            stopped = mesh.nodes[_KILLED]
            stopping = await _phase(mesh, f"SIGSTOP of a node, {_STOPPED_S:g} s", _stop_node(mesh))
            away = await _phase(mesh, "kill -9 of the control plane", _kill_control(mesh, supervisor))
    phases = (killing, stopping, away)
    used_s = _used_s(asking.outcomes, stopped.name, stopping)
    waited_s = max((outcome.latency_s for outcome in _within(stopping, asking.outcomes)), default=0.0)
    rows = [_row(phase, asking.outcomes) for phase in phases]
    rows[1]["what else"] = f"{used_s:.2f} s until its last request"
    rows[2]["what else"] = away.note
    lost = killing.retries["limit_exceeded"] + killing.retries["overflow"]
    return list(rows), [
        Bar("kill -9: requests that failed", 0, _failed(killing, asking.outcomes), at_most=True),
        Bar("kill -9: tries that were repeated", 1, killing.retries["retry"]),
        Bar("kill -9: repetitions that were given up", 0, lost, at_most=True),
        Bar("SIGSTOP: until the last request to the node, s", 1.0, used_s, at_most=True),
        Bar("SIGSTOP: longest wait for an answer, s", 5.0, waited_s, at_most=True),
        Bar("SIGSTOP: requests that failed", 0, _failed(stopping, asking.outcomes), at_most=True),
        Bar("control plane away and back: requests that failed", 0, _failed(away, asking.outcomes), at_most=True),
    ]


async def _phase(mesh: LocalMesh, name: str, fault: Any) -> _Phase:
    await asyncio.sleep(_BETWEEN_S)
    before, begin_s = await read_stats(mesh.admin, _RETRIES), time.monotonic()
    note = await fault
    end_s, after = time.monotonic(), await read_stats(mesh.admin, _RETRIES)
    await asyncio.sleep(_BETWEEN_S)
    changes = {key.removeprefix(_RETRIES).lstrip("_") or "retry": after[key] - before[key] for key in after}
    return _Phase(name, begin_s, end_s, changes, note)


async def _kill_nodes(mesh: LocalMesh) -> str:
    for node in mesh.nodes[:_KILLED]:
        await node.child.kill()
        await asyncio.sleep(_EVERY_S)
    return ""


async def _stop_node(mesh: LocalMesh) -> str:
    child = mesh.nodes[_KILLED].child
    child.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(_STOPPED_S)
    finally:
        child.send_signal(signal.SIGCONT)
    return ""


async def _kill_control(mesh: LocalMesh, supervisor: Supervisor) -> str:
    """Returns how long the new one took until it served every gateway and knew every node."""
    await mesh.control_child.kill()
    await asyncio.sleep(_AWAY_S)
    began_s = time.monotonic()
    await supervisor.start([mesh.control_again])
    alive = {node.name for node in mesh.nodes[_KILLED:]}
    async with grpc.aio.insecure_channel(str(mesh.control)) as channel:
        stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
        while True:
            seen = await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=5, wait_for_ready=True)
            if {node.name for node in seen.nodes} == alive and seen.gateways and not seen.alarms:
                break
            if time.monotonic() - began_s > _RESUME_S_MAX:
                raise BenchFailed(f"the control plane has not resumed: {'; '.join(seen.alarms)}")
            await asyncio.sleep(0.05)
    resumed_s = time.monotonic() - began_s
    await asyncio.sleep(_SETTLE_S)  # it has changed weights again by then
    return f"resumed {resumed_s:.2f} s after its start"


def _within(phase: _Phase, outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if phase.begin_s <= outcome.due_s < phase.end_s]


def _failed(phase: _Phase, outcomes: Sequence[Outcome]) -> int:
    return sum(not outcome.node for outcome in _within(phase, outcomes))


def _used_s(outcomes: Sequence[Outcome], node: str, stopping: _Phase) -> float:
    """Returns the time from the stop until the last request was sent to the node that slept.

    Such a request is answered by that node when it wakes, or by another one after a long wait.
    """
    found = _within(stopping, outcomes)
    sent = [outcome.due_s for outcome in found if outcome.node == node or outcome.latency_s > _HELD_S]
    return max(sent, default=stopping.begin_s) - stopping.begin_s


def _row(phase: _Phase, outcomes: Sequence[Outcome]) -> dict[str, str | float | int]:
    found = _within(phase, outcomes)
    return {
        "fault": phase.name,
        "requests": len(found),
        "failed": _failed(phase, outcomes),
        "repeated by the gateway": phase.retries["retry"],
        **describe_latencies(found),
        "what else": "",
    }
