"""Arrival traces: seeded, so that every server meets the same requests at the same moments."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_FLEET_HZ = 10.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace; `tenant` and `stream` are -1 for none."""

    at_us: int
    deadline_us: int
    tenant: int = -1
    stream: int = -1
    sequence: int = 0
    priority: int = 0


Rate = Callable[[float], float]


def poisson(rate: float, seconds: float, deadline_s: float, *, seed: int, tenant: int = -1) -> list[Arrival]:
    """Returns independent arrivals at `rate` a second."""
    return _thin(lambda _: rate, rate, seconds, deadline_s, seed=seed, tenant=tenant)


def bursts(rate: float, seconds: float, deadline_s: float, *, seed: int) -> list[Arrival]:
    """Returns arrivals at `rate` on average; a tenth of every second has ten times the rate of the rest."""
    low = rate / (0.9 + 0.1 * 10)
    return _thin(lambda t: low * 10 if t % 1.0 < 0.1 else low, low * 10, seconds, deadline_s, seed=seed)


def daily(rate: float, seconds: float, deadline_s: float, *, seed: int) -> list[Arrival]:
    """Returns arrivals at `rate` on average in the shape of a day: night, a morning and a higher evening peak."""

    def shape(t: float) -> float:
        hour = 24 * t / seconds
        return 0.35 + 0.9 * math.exp(-(((hour - 9.5) / 2.5) ** 2)) + 1.5 * math.exp(-(((hour - 18.5) / 3.0) ** 2))

    mean = sum(shape(seconds * (i + 0.5) / 1000) for i in range(1000)) / 1000
    most = max(shape(seconds * i / 1000) for i in range(1000))
    return _thin(lambda t: rate * shape(t) / mean, rate * most / mean, seconds, deadline_s, seed=seed)


def fleet(rate: float, seconds: float, deadline_s: float, *, seed: int) -> list[Arrival]:
    """Returns a fleet of agents at 10 Hz each, with phases and a little jitter of their own, `rate` a second in all.

    Each agent is a stream: its newest frame takes the place of one that still waits.
    """
    rng = random.Random(seed)
    arrivals = []
    for agent in range(max(1, round(rate / _FLEET_HZ))):
        phase = rng.random() / _FLEET_HZ
        for tick in range(int(seconds * _FLEET_HZ)):
            at = phase + tick / _FLEET_HZ + rng.uniform(0, 0.005)
            arrivals.append(Arrival(round(at * 1e6), round(deadline_s * 1e6), stream=agent, sequence=tick))
    return sorted(arrivals, key=lambda a: a.at_us)


def merge(*traces: Sequence[Arrival]) -> list[Arrival]:
    """Returns several traces as one."""
    return sorted((a for trace in traces for a in trace), key=lambda a: a.at_us)


def write_trace(path: Path, trace: Sequence[Arrival]) -> Path:
    """Writes a trace as `starling-replay` reads it; returns the file."""
    lines = (f"{a.at_us} {a.deadline_us} {a.tenant} {a.stream} {a.sequence} {a.priority}\n" for a in trace)
    path.write_text("".join(lines))
    return path


def _thin(
    rate_at: Rate, most: float, seconds: float, deadline_s: float, *, seed: int, tenant: int = -1
) -> list[Arrival]:
    """Returns a Poisson process whose rate changes with time, by thinning one at its highest rate."""
    rng = random.Random(seed)

    def times() -> Iterator[float]:
        t = rng.expovariate(most)
        while t < seconds:
            if rng.random() * most <= rate_at(t):
                yield t
            t += rng.expovariate(most)

    return [Arrival(round(t * 1e6), round(deadline_s * 1e6), tenant=tenant) for t in times()]
