"""The nodes as they are seen from one place: their latencies, and the weights made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mesh.control.estimate import Sample, Sighting, Window
from mesh.control.latency import DEAD_BAND, Latency, follow
from mesh.control.weights import PRIOR_SERVICE_S, WEIGHT_SUM, Candidate, NodeWeight, Plan, Rules, weigh
from mesh.endpoint import Endpoint, Health


@dataclass(frozen=True, slots=True)
class Seat:
    """One node before it is weighed.

    Attributes:
        endpoint: how it is reached.
        age_s: time since it joined.
        distance_s: round trip to it as far as we know.
        service_s: how long a request takes on it, as it says itself.
    """

    endpoint: Endpoint
    age_s: float
    distance_s: float
    service_s: float = PRIOR_SERVICE_S


class Viewpoint:
    """Follows every node from one place. Not thread-safe; the event loop owns it.

    Attributes:
        name: of the place.
        plan: the weights now.
        sightings: what the last look showed, by node; nodes without tries are absent.
    """

    def __init__(self, name: str, rules: Rules, *, equal: bool = False) -> None:
        self.name = name
        self.plan = Plan()
        self.sightings: dict[str, Sighting] = {}
        self._rules, self._equal = rules, equal
        self._windows: dict[str, Window] = {}
        self._latencies: dict[str, Latency] = {}

    def take(self, node: str, sample: Sample) -> None:
        """Takes one try at a node."""
        self._windows.setdefault(node, Window()).add([sample])

    def look(self, seats: Sequence[Seat], now_s: float) -> bool:
        """Follows every node and weighs anew; returns whether gateways have to be told."""
        names = {seat.endpoint.name for seat in seats}
        for gone in self._windows.keys() - names:
            del self._windows[gone]
        self._latencies = {name: found for name, found in self._latencies.items() if name in names}
        self.sightings = {}
        candidates = [self._follow(seat, now_s) for seat in seats]
        rate = sum(seen.rate for seen in self.sightings.values())
        before = self.plan
        self.plan = weigh(before, candidates, rate, now_s, self._rules)
        if self._equal and self.plan is not before:
            self.plan = _level(self.plan)
        return self.plan is not before

    def latency(self, node: str) -> Latency | None:
        """Returns what is believed about a node; None for an unknown one."""
        return self._latencies.get(node)

    def _follow(self, seat: Seat, now_s: float) -> Candidate:
        name = seat.endpoint.name
        window = self._windows.get(name)
        seen = None if window is None else window.look(now_s)
        if seen is not None:
            self.sightings[name] = seen
        before = self._latencies.get(name)
        if before is None or (seen is None and math.isinf(before.newest_s)):
            before = _expect(before, seat, now_s)
        self._latencies[name] = follow(before, seen, now_s)
        return Candidate(name, self._latencies[name], seat.endpoint.health, seat.age_s)

    def __repr__(self) -> str:
        """Returns the name and the shares in percent."""
        shares = " ".join(f"{name}={node.share:.1%}" for name, node in self.plan.nodes.items())
        return f"<Viewpoint {self.name} {shares}>"


def _expect(before: Latency | None, seat: Seat, now_s: float) -> Latency:
    """Returns what is believed about a node that nobody here has asked, before which may have been the same."""
    prior_s = seat.service_s + seat.distance_s
    if before is not None and abs(math.log(prior_s / before.settled_s)) <= DEAD_BAND:
        return before
    return Latency.assume(prior_s, now_s)


def _level(plan: Plan) -> Plan:
    """Returns a plan with the same weight for every serving node, for comparison."""
    serving = [name for name, node in plan.nodes.items() if node.health is Health.SERVING]

    def level(node: NodeWeight) -> NodeWeight:
        share = 1 / len(serving) if node.health is Health.SERVING else 0.0
        return replace(node, share=share, weight=max(1, round(WEIGHT_SUM * share)), reason="equal weights")

    return Plan({name: level(node) for name, node in plan.nodes.items()}, plan.changed_s)
