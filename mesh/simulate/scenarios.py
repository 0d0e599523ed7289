"""What happens to a simulated fleet: a day, a burst, lost nodes, slow nodes, a bad way to the cloud."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from mesh.control.simulation import SimulatedNode, poisson, regular
from mesh.endpoint import Tier

_EDGES, _CLOUDS = 150, 50
_EDGE_SERVICE_S, _EDGE_DISTANCE_S = (0.015, 0.025), (0.001, 0.008)
_CLOUD_SERVICE_S, _CLOUD_WORKERS, _CLOUD_DISTANCE_S = 0.010, 8, (0.030, 0.080)
_AGENT_HZ = 2.0
_LOAD = 0.45  # of what all edge nodes can do


@dataclass(frozen=True, slots=True)
class Play:
    """One scenario with everything random decided.

    Attributes:
        nodes: of the mesh; a name is its group, a dash and a number.
        arrivals: when requests are sent, ascending.
        seconds: how long it plays.
        turns_s: when something changes for the worse or back; empty for what changes all the time.
        agents: how many ask.
        failed_max: most of all requests that may fail.
    """

    nodes: Sequence[SimulatedNode]
    arrivals: Sequence[float]
    seconds: float
    turns_s: tuple[float, ...]
    agents: int
    failed_max: float = 0.0


def diurnal(rng: Random, scale: float = 1.0) -> Play:
    """A day in a minute: a quiet night, a morning peak, an evening peak at nine tenths of the edge's capacity."""
    seconds = 60.0
    nodes = [*_edges(rng, scale), *_clouds(rng, scale)]
    peak = 0.9 * _capacity(nodes)

    def rate(t: float) -> float:
        hour = 24 * t / seconds
        return peak * (0.15 + 0.5 * _bell(hour, 9.0, 2.0) + 0.8 * _bell(hour, 18.5, 2.5))

    return Play(nodes, poisson(rate, peak, seconds, rng), seconds, (), round(peak / _AGENT_HZ))


def burst(rng: Random, scale: float = 1.0) -> Play:
    """Three times the usual requests for eight seconds: more than the edge can do, so that the cloud has to help."""
    seconds, begin_s, end_s = 45.0, 15.0, 23.0
    nodes = [*_edges(rng, scale), *_clouds(rng, scale)]
    usual = _LOAD * _capacity(nodes)
    arrivals = poisson(lambda t: usual * (3 if begin_s <= t < end_s else 1), 3 * usual, seconds, rng)
    # A queue that is full on three nodes in a row refuses for good; it takes the weights a second to follow.
    return Play(nodes, arrivals, seconds, (begin_s, end_s), round(usual / _AGENT_HZ), failed_max=0.002)


def node_loss(rng: Random, scale: float = 1.0) -> Play:
    """A tenth of the edge nodes vanish without a word, with all that they were computing."""
    seconds, at_s = 40.0, 15.0
    lost = _edges(rng, scale / 10, "lost")
    for node in lost:
        node.alive_s = (0.0, at_s)
    nodes = [*_edges(rng, 0.9 * scale), *lost, *_clouds(rng, scale)]
    return _steady(rng, nodes, seconds, (at_s,), failed_max=0.0005)


def slow_nodes(rng: Random, scale: float = 1.0) -> Play:
    """A tenth of the edge nodes need eight times as long for a quarter of a minute, and recover."""
    seconds, begin_s, end_s = 50.0, 15.0, 30.0
    slow = _edges(rng, scale / 10, "slow")
    for node in slow:
        node.service_s = _slowed(node.service_s(0.0), begin_s, end_s)
    nodes = [*_edges(rng, 0.9 * scale), *slow, *_clouds(rng, scale)]
    return _steady(rng, nodes, seconds, (begin_s, end_s))


def wan_jitter(rng: Random, scale: float = 1.0) -> Play:
    """More requests than the edge can do, and a way to the cloud of which one round trip in six is twice as long."""
    seconds = 40.0
    nodes = [*_edges(rng, scale), *_clouds(rng, scale)]
    for node in nodes:
        node.distance_jitter = 0.7 if node.tier is Tier.CLOUD else 0.3
    # Queues of the edge are full again and again; who meets three of them is refused.
    return _steady(rng, nodes, seconds, (), load=1.2, failed_max=0.0005)


SCENARIOS: Mapping[str, Callable[[Random, float], Play]] = {
    "diurnal": diurnal,
    "burst": burst,
    "node-loss": node_loss,
    "slow-nodes": slow_nodes,
    "wan-jitter": wan_jitter,
}


def _steady(
    rng: Random,
    nodes: Sequence[SimulatedNode],
    seconds: float,
    turns_s: tuple[float, ...],
    *,
    load: float = _LOAD,
    failed_max: float = 0.0,
) -> Play:
    """Returns a play in which every agent asks at its own steady pace."""
    agents = round(load * _capacity(nodes) / _AGENT_HZ)
    return Play(nodes, regular(agents, _AGENT_HZ, seconds, rng), seconds, turns_s, agents, failed_max)


def _edges(rng: Random, scale: float, group: str = "edge") -> list[SimulatedNode]:
    return [
        SimulatedNode(
            f"{group}-{i + 1}",
            Tier.EDGE,
            rng.choice((1, 2)),
            _constant(rng.uniform(*_EDGE_SERVICE_S)),
            rng.uniform(*_EDGE_DISTANCE_S),
        )
        for i in range(max(1, round(_EDGES * scale)))
    ]


def _clouds(rng: Random, scale: float) -> list[SimulatedNode]:
    return [
        SimulatedNode(
            f"cloud-{i + 1}",
            Tier.CLOUD,
            _CLOUD_WORKERS,
            _constant(_CLOUD_SERVICE_S),
            rng.uniform(*_CLOUD_DISTANCE_S),
            queue_max=64,
        )
        for i in range(max(1, round(_CLOUDS * scale)))
    ]


def _capacity(nodes: Sequence[SimulatedNode]) -> float:
    """Returns how many requests a second all edge nodes can answer."""
    return sum(node.workers / node.service_s(0.0) for node in nodes if node.tier is Tier.EDGE)


def _bell(hour: float, middle: float, width: float) -> float:
    return math.exp(-(((hour - middle) / width) ** 2))


def _constant(seconds: float) -> Callable[[float], float]:
    return lambda _: seconds


def _slowed(seconds: float, begin_s: float, end_s: float) -> Callable[[float], float]:
    return lambda t: 8 * seconds if begin_s <= t < end_s else seconds
