"""A mesh in virtual time: the policies that run in the control plane, before nodes and a gateway that are arithmetic.

Nodes are bounded first-come-first-served queues with some workers at some distance. The gateway picks a node with
probability proportional to weight / (1 + requests under way), as Envoy's least-request policy does on average, and
sends a request that was refused or lost to other nodes, three tries in all. What it saw reaches the policies as late as
its access log does. Everything random comes from one seed.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from mesh.control.estimate import Ending, Sample
from mesh.control.viewpoint import Seat, Viewpoint
from mesh.control.weights import Rules
from mesh.endpoint import Endpoint, Health, Tier
from services.host import Address

TICK_S = 0.1
"""How often the control plane looks; the gateway sends its log as often, half a tick before."""

SILENCE_S = 0.75
_LOST_S = 10.0  # a lost node is forgotten after so long
_REPICKS_MAX = 1000  # as the route says
_TRIES = 3  # as the route says
_BACK_OFF_S = (0.001, 0.005)  # as the route says
_NOWHERE = Address("127.0.0.1", 1)


@dataclass(eq=False, slots=True)
class SimulatedNode:
    """One node.

    Attributes:
        name, tier: as in the mesh.
        workers: requests it computes at once.
        service_s: time of one request, by the time it starts.
        distance_s: round trip to it.
        queue_max: requests that may wait.
        jitter: standard deviation of the logarithm of the service time.
        distance_jitter: the same of the distance.
        alive_s: from when until when it exists.
    """

    name: str
    tier: Tier
    workers: int
    service_s: Callable[[float], float]
    distance_s: float
    queue_max: int = 16
    jitter: float = 0.1
    distance_jitter: float = 0.1
    alive_s: tuple[float, float] = (0.0, float("inf"))
    _free: list[float] = field(default_factory=list)
    _starts: deque[float] = field(default_factory=deque)

    def serves(self, now_s: float) -> bool:
        """Returns whether it exists."""
        return self.alive_s[0] <= now_s < self.alive_s[1]

    def offer(self, now_s: float, rng: Random) -> tuple[float, Ending]:
        """Takes a request that is sent now; returns when the gateway hears how it ended, and how."""
        way_s = self.distance_s * rng.lognormvariate(0.0, self.distance_jitter)
        if not self.serves(now_s):
            return now_s + way_s, Ending.FAILED
        while self._starts and self._starts[0] <= now_s:
            self._starts.popleft()
        if len(self._starts) >= self.queue_max:
            return now_s + way_s, Ending.REFUSED
        if not self._free:
            self._free = [0.0] * self.workers
        arrives_s = now_s + way_s / 2
        start_s = max(arrives_s, heapq.heappop(self._free))
        end_s = start_s + self.service_s(start_s) * rng.lognormvariate(0.0, self.jitter)
        heapq.heappush(self._free, end_s)
        if start_s > arrives_s:
            self._starts.append(start_s)
        if end_s >= self.alive_s[1]:
            return self.alive_s[1] + way_s / 2, Ending.FAILED
        return end_s + way_s / 2, Ending.ANSWERED


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request; `node` is empty when it failed."""

    at_s: float
    latency_s: float
    node: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the weights: shares by name."""

    at_s: float
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Try:
    """A request at a node: when it was sent first, when to this one, and who was asked before."""

    began_s: float
    sent_s: float
    node: str
    ending: Ending
    tried: tuple[str, ...]


class Simulation:
    """One gateway before some nodes, steered by the real policies.

    Attributes:
        answers: one per request, in order of their ends.
        changes: every change of the weights.

    Args:
        nodes: names unique.
        seed: of everything random.
        rules: what decides about weights.
        hop_s: what agent and gateway add to every request.
        balanced: whether weights follow latencies; all nodes weigh the same otherwise, to compare.
    """

    def __init__(
        self,
        nodes: Sequence[SimulatedNode],
        seed: int,
        rules: Rules | None = None,
        *,
        hop_s: float = 0.0,
        balanced: bool = True,
    ) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._rng = Random(seed)
        self._viewpoint = Viewpoint("simulated", rules or Rules())
        self._hop_s, self._balanced = hop_s, balanced
        self._log: list[tuple[str, Sample]] = []
        self._seen_s: dict[str, float] = {}
        self._under_way: dict[str, int] = dict.fromkeys(self._nodes, 0)
        self._events: list[tuple[float, int, _Try | None, float, tuple[str, ...]]] = []
        self._count = 0
        self._names: list[str] = []
        self._cumulative: list[float] = []
        self.answers: list[Answer] = []
        self.changes: list[Change] = []

    def run(self, arrivals: Iterable[float]) -> None:
        """Sends a request at each of these times, ascending, and returns after the last answer."""
        self._next_tick_s = 0.0
        for now_s in arrivals:
            self._advance(now_s)
            self._send(now_s, now_s, ())
        while self._events:
            self._advance(self._events[0][0])

    def _advance(self, now_s: float) -> None:
        """Lets everything happen that is due by now, in its order."""
        while True:
            at_s = self._events[0][0] if self._events else float("inf")
            if min(at_s, self._next_tick_s) > now_s:
                return
            if at_s < self._next_tick_s:
                _, _, ended, began_s, tried = heapq.heappop(self._events)
                if ended is None:
                    self._send(at_s, began_s, tried)
                else:
                    self._end(at_s, ended)
            else:
                self._tick(self._next_tick_s)
                self._next_tick_s += TICK_S

    def _send(self, now_s: float, began_s: float, tried: tuple[str, ...]) -> None:
        name = self._pick(tried)
        if name is None:
            self.answers.append(Answer(began_s, now_s - began_s, ""))
            return
        end_s, ending = self._nodes[name].offer(now_s, self._rng)
        self._under_way[name] += 1
        self._push(end_s, _Try(began_s, now_s, name, ending, (*tried, name)))

    def _end(self, now_s: float, ended: _Try) -> None:
        self._under_way[ended.node] -= 1
        self._log.append((ended.node, Sample(now_s, now_s - ended.sent_s, ended.ending)))
        if ended.ending is Ending.ANSWERED:
            self.answers.append(Answer(ended.began_s, now_s - ended.began_s + self._hop_s, ended.node))
        elif len(ended.tried) < _TRIES:
            self._push(now_s + self._rng.uniform(*_BACK_OFF_S), None, ended.began_s, ended.tried)
        else:
            self.answers.append(Answer(ended.began_s, now_s - ended.began_s + self._hop_s, ""))

    def _push(self, at_s: float, ended: _Try | None, began_s: float = 0.0, tried: tuple[str, ...] = ()) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, ended, began_s, tried))

    def _pick(self, tried: tuple[str, ...]) -> str | None:
        """Returns a node with probability ~ weight / (1 + under way), not one that was tried unless that takes long."""
        if not self._names:
            return None
        name = self._draw()
        for _ in range(_REPICKS_MAX):
            if name not in tried:
                break
            name = self._draw()
        return name

    def _draw(self) -> str:
        """Returns a node with probability ~ weight / (1 + under way), by taking a weighted one or trying again."""
        while True:
            place = bisect(self._cumulative, self._rng.random() * self._cumulative[-1])
            name = self._names[min(place, len(self._names) - 1)]
            if self._rng.random() * (1 + self._under_way[name]) < 1:
                return name

    def _tick(self, now_s: float) -> None:
        # The gateway sent its log half a tick ago.
        late = [entry for entry in self._log if entry[1].at_s > now_s - TICK_S / 2]
        for name, sample in self._log[: len(self._log) - len(late)]:
            self._viewpoint.take(name, sample)
        self._log = late
        known = (node for node in self._nodes.values() if node.alive_s[0] <= now_s < node.alive_s[1] + _LOST_S)
        if self._viewpoint.look([self._seat(node, now_s) for node in known], now_s):
            plan = self._viewpoint.plan
            serving = {
                n: w.weight if self._balanced else 1 for n, w in plan.nodes.items() if w.health is Health.SERVING
            }
            self._names = list(serving)
            self._cumulative = list(accumulate(serving.values()))
            self.changes.append(Change(now_s, {name: node.share for name, node in plan.nodes.items()}))

    def _seat(self, node: SimulatedNode, now_s: float) -> Seat:
        health = Health.SILENT if now_s >= node.alive_s[1] + SILENCE_S else Health.SERVING
        joined_s = self._seen_s.setdefault(node.name, now_s)
        # Those of the beginning have long been there.
        age_s = now_s - joined_s if node.alive_s[0] else 1e9
        return Seat(Endpoint(node.name, node.tier, _NOWHERE, health), age_s, node.distance_s)


def regular(agents: int, hz: float, seconds: float, rng: Random) -> list[float]:
    """Returns the times at which a fleet asks: each agent at its own rate and phase, with a little jitter."""
    times = []
    for _ in range(agents):
        phase = rng.random() / hz
        times += [phase + i / hz + rng.gauss(0, 0.02 / hz) for i in range(int(seconds * hz))]
    return sorted(max(0.0, t) for t in times)


def poisson(rate: Callable[[float], float], rate_max: float, seconds: float, rng: Random) -> list[float]:
    """Returns random times with a rate that changes, by thinning; `rate` never exceeds `rate_max`."""
    times = []
    now_s = 0.0
    while (now_s := now_s + rng.expovariate(rate_max)) < seconds:
        if rng.random() * rate_max < rate(now_s):
            times.append(now_s)
    return times
