"""A mesh in virtual time: the policies that run in the control plane, before nodes and a gateway that are arithmetic.

Nodes are bounded first-come-first-served queues with some workers at some distance. The gateway picks a node with
probability proportional to weight / (1 + requests under way), as Envoy's least-request policy does on average, and
sends a request that was refused or lost to other nodes, three tries in all. Everything random comes from one seed.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from mesh.control.estimate import Ending, Sample, Window
from mesh.control.latency import Latency, follow
from mesh.control.weights import PRIOR_DISTANCE_S, PRIOR_SERVICE_S, Candidate, Plan, Rules, weigh
from mesh.endpoint import Health, Tier

TICK_S = 0.2
SILENCE_S = 0.75
_PICKS_MAX = 1000
_TRIES = 3  # as the route says


@dataclass(eq=False, slots=True)
class SimulatedNode:
    """One node.

    Attributes:
        name, tier: as in the mesh.
        workers: requests it computes at once.
        service_s: time of one request, by the time it starts.
        distance_s: round trip to it.
        queue_max: requests that may wait.
        jitter: standard deviation of the logarithm of service and distance.
        alive_s: from when until when it exists.
    """

    name: str
    tier: Tier
    workers: int
    service_s: Callable[[float], float]
    distance_s: float
    queue_max: int = 16
    jitter: float = 0.1
    alive_s: tuple[float, float] = (0.0, float("inf"))
    _free: list[float] = field(default_factory=list)
    _starts: deque[float] = field(default_factory=deque)

    def serves(self, now_s: float) -> bool:
        """Returns whether it exists."""
        return self.alive_s[0] <= now_s < self.alive_s[1]

    def offer(self, now_s: float, rng: Random) -> float | None:
        """Takes a request and returns when its answer arrives; None when it is refused."""
        while self._starts and self._starts[0] <= now_s:
            self._starts.popleft()
        if len(self._starts) >= self.queue_max:
            return None
        if not self._free:
            self._free = [0.0] * self.workers
        start_s = max(now_s + self._noisy(self.distance_s / 2, rng), heapq.heappop(self._free))
        end_s = start_s + self._noisy(self.service_s(start_s), rng)
        heapq.heappush(self._free, end_s)
        if start_s > now_s + self.distance_s:
            self._starts.append(start_s)
        return end_s + self.distance_s / 2

    def _noisy(self, mean_s: float, rng: Random) -> float:
        return mean_s * rng.lognormvariate(0.0, self.jitter)


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


class Simulation:
    """One gateway before some nodes, steered by the real policies.

    Attributes:
        answers: one per request, in order of their ends.
        changes: every change of the weights.
    """

    def __init__(self, nodes: Sequence[SimulatedNode], seed: int, rules: Rules | None = None) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._rng = Random(seed)
        self._rules = rules or Rules()
        self._windows = {name: Window() for name in self._nodes}
        self._latencies: dict[str, Latency] = {}
        self._seen_s: dict[str, float] = {}
        self._plan = Plan()
        self._under_way: dict[str, int] = dict.fromkeys(self._nodes, 0)
        self._ends: list[tuple[float, int, str, Sample, Answer | None]] = []
        self._count = 0
        self._names: list[str] = []
        self._cumulative: list[float] = []
        self.answers: list[Answer] = []
        self.changes: list[Change] = []

    def run(self, arrivals: Iterable[float]) -> None:
        """Sends a request at each of these times, ascending, and returns after the last answer."""
        next_tick_s = 0.0
        for now_s in arrivals:
            while next_tick_s <= now_s:
                self._finish(next_tick_s)
                self._tick(next_tick_s)
                next_tick_s += TICK_S
            self._finish(now_s)
            self._send(now_s)
        self._finish(float("inf"))

    def _send(self, now_s: float) -> None:
        tried: set[str] = set()
        for _ in range(_TRIES):
            name = self._pick(tried)
            if name is None:
                break
            node = self._nodes[name]
            end_s = node.offer(now_s, self._rng) if node.serves(now_s) else None
            if end_s is not None and end_s < node.alive_s[1]:
                self._schedule(end_s, name, Sample(end_s, end_s - now_s, Ending.ANSWERED), now_s)
                return
            ending = Ending.REFUSED if node.serves(now_s) and end_s is None else Ending.FAILED
            self._windows[name].add([Sample(now_s, node.distance_s, ending)])
            tried.add(name)
        self.answers.append(Answer(now_s, 0.0, ""))

    def _schedule(self, end_s: float, name: str, sample: Sample, began_s: float) -> None:
        self._under_way[name] += 1
        self._count += 1
        answer = Answer(began_s, end_s - began_s, name)
        heapq.heappush(self._ends, (end_s, self._count, name, sample, answer))

    def _finish(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            _, _, name, sample, answer = heapq.heappop(self._ends)
            self._under_way[name] -= 1
            self._windows[name].add([sample])
            if answer is not None:
                self.answers.append(answer)

    def _pick(self, tried: set[str]) -> str | None:
        """Returns a node with probability ~ weight / (1 + under way), by taking a weighted one or trying again."""
        if not self._names:
            return None
        name = self._names[0]
        for _ in range(_PICKS_MAX):
            place = bisect(self._cumulative, self._rng.random() * self._cumulative[-1])
            name = self._names[min(place, len(self._names) - 1)]
            if name not in tried and self._rng.random() * (1 + self._under_way[name]) < 1:
                return name
        return name

    def _tick(self, now_s: float) -> None:
        candidates = []
        rate = 0.0
        for name, node in self._nodes.items():
            if now_s < node.alive_s[0] or now_s >= node.alive_s[1] + 10.0:
                continue
            seen = self._windows[name].look(now_s)
            before = self._latencies.get(name) or Latency.assume(PRIOR_SERVICE_S + PRIOR_DISTANCE_S[node.tier], now_s)
            self._latencies[name] = latency = follow(before, seen, now_s)
            self._seen_s.setdefault(name, now_s)
            rate += seen.rate if seen is not None else 0.0
            silent = now_s >= node.alive_s[1] + SILENCE_S
            health = Health.SILENT if silent else Health.SERVING
            candidates.append(Candidate(name, latency, health, now_s - self._seen_s[name] if node.alive_s[0] else 1e9))
        plan = weigh(self._plan, candidates, rate, now_s, self._rules)
        if plan is not self._plan:
            self._plan = plan
            serving = {n: w.weight for n, w in plan.nodes.items() if w.health is Health.SERVING}
            self._names = list(serving)
            self._cumulative = list(accumulate(serving.values()))
            self.changes.append(Change(now_s, {name: node.share for name, node in plan.nodes.items()}))


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
