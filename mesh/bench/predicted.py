"""The replay of `starling bench mesh` in virtual time, with times measured on the idle mesh just before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import grpc
from starling.predict.v1 import predict_service_pb2_grpc

from mesh.control.simulation import Answer, SimulatedNode, Simulation
from mesh.endpoint import Tier
from mesh.local_mesh import LocalMesh

_CALLS = 40
_SEEDS = 10
_SIGMAS_OF_QUARTILES = 1.349  # between the quartiles of a normal distribution


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """One idle node, asked directly, request after request.

    Attributes:
        service_s: what it says that it computed.
        distance_s: the rest of the round trip.
        service_jitter, distance_jitter: spread of their logarithms.
    """

    service_s: float
    distance_s: float
    service_jitter: float
    distance_jitter: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What the simulation is told.

    Attributes:
        nodes: by name.
        hop_s: what the gateway adds to a request to the near node.
    """

    nodes: dict[str, NodeTimes]
    hop_s: float


async def measure_idle(mesh: LocalMesh, request: Any) -> Measured:
    """Asks every node of an idle mesh directly, and the nearest through the gateway."""
    nodes = {}
    for node in mesh.nodes:
        delay = mesh.delays.get(node.name)
        address = str(node.grpc) if delay is None else delay.facts["listen"]
        nodes[node.name] = _times(await _ask(address, request, node.name))
    near = mesh.nodes[0].name
    through = await _ask(str(mesh.gateway), request, near)
    direct_s = nodes[near].service_s + nodes[near].distance_s
    return Measured(nodes, max(0.0, median(total_s for total_s, _ in through) - direct_s))


def simulate(
    measured: Measured,
    workers: dict[str, int],
    queue_max: Callable[[int], int],
    slow: tuple[float, float, float],
    arrivals: Sequence[float],
) -> list[list[Answer]]:
    """Returns the answers of several simulated runs.

    Args:
        measured: what `measure_idle` found.
        workers: by node; the first one slows down.
        queue_max: how many may wait, by workers.
        slow: from when until when it does, and how much longer it then takes.
        arrivals: when requests are sent.
    """
    begin_s, end_s, more_s = slow
    first = next(iter(workers))

    def build(name: str) -> SimulatedNode:
        times = measured.nodes[name]

        def service_s(t: float) -> float:
            return times.service_s + (more_s if name == first and begin_s <= t < end_s else 0.0)

        tier = Tier.EDGE if name == first else Tier.CLOUD
        node = SimulatedNode(name, tier, workers[name], service_s, times.distance_s, queue_max(workers[name]))
        node.jitter, node.distance_jitter = times.service_jitter, times.distance_jitter
        return node

    runs = []
    for seed in range(_SEEDS):
        simulation = Simulation([build(name) for name in workers], seed, hop_s=measured.hop_s)
        simulation.run(arrivals)
        runs.append(simulation.answers)
    return runs


async def _ask(address: str, request: Any, node: str) -> list[tuple[float, float]]:
    """Returns the round trip and the computing time of each answer of that node, in seconds."""
    found = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = predict_service_pb2_grpc.PredictServiceStub(channel)
        await stub.Predict(request, timeout=10)
        for _ in range(_CALLS):
            began_s = time.monotonic()
            answer = await stub.Predict(request, timeout=10)
            if answer.node == node:
                found.append((time.monotonic() - began_s, answer.timing.compute_us / 1e6))
    return found


def _times(calls: Sequence[tuple[float, float]]) -> NodeTimes:
    services = [service_s for _, service_s in calls]
    distances = [max(1e-6, total_s - service_s) for total_s, service_s in calls]
    return NodeTimes(median(services), median(distances), _spread(services), _spread(distances))


def _spread(values: Sequence[float]) -> float:
    """Returns the standard deviation of the logarithm as the quartiles show it: a hiccup is none of the model's."""
    ordered = sorted(map(math.log, values))
    return (ordered[3 * len(ordered) // 4] - ordered[len(ordered) // 4]) / _SIGMAS_OF_QUARTILES
