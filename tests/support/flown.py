"""The autopilot in virtual time: a machine, its load and its objective in; endings and decisions out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines._core import autopilot_decide, simulate_autopilot
from tests.support.simulated import Arrival

Rows = NDArray[np.int64]
LEVERS = ("batch_delay_us", "largest_bucket", "slots", "bound_us")
Setting = dict[str, int]
_AT, _START, _END = 0, 1, 2  # columns of arrivals, and of endings


@dataclass(frozen=True)
class Machine:
    """One model on one machine. `convnet`: a batch takes as long as its rows; otherwise it hardly takes longer."""

    run_us: int = 10_000
    convnet: bool = True
    buckets: tuple[int, ...] = (1, 2, 4, 8)
    slots: int = 2
    cores: int = 0
    batch_delay_us: int = 0
    noise: float = 0.1
    seed: int = 0
    slowdowns: tuple[tuple[int, float], ...] = ()

    @property
    def bucket_run_us(self) -> list[int]:
        """True run time of each bucket without noise."""
        return [self.run_us * n if self.convnet else self.run_us + self.run_us * n // 20 for n in self.buckets]

    @property
    def capacity(self) -> float:
        """Rows a second in the cheapest batches."""
        row_us = min(us / n for us, n in zip(self.bucket_run_us, self.buckets, strict=True))
        return min(self.cores or self.slots, self.slots) * 1e6 / (row_us * (1 + self.noise / 2))

    def fly(self, arrivals: Rows, slo_us: int, mode: str = "act") -> Flight:
        """Returns what the autopilot did and what became of each arrival."""
        endings, policy, records = simulate_autopilot(
            arrivals,
            bucket_rows=self.buckets,
            bucket_run_us=self.bucket_run_us,
            slo_p99_us=slo_us,
            mode=mode,
            slots=self.slots,
            cores=self.cores,
            slowdowns=self.slowdowns,
            batch_delay_us=self.batch_delay_us,
            noise=self.noise,
            seed=self.seed,
        )
        return Flight(slo_us, arrivals, endings, policy, tuple(records))


@dataclass(frozen=True, eq=False)
class Flight:
    """What was seen and decided, and what became of the requests; `arrivals` and `endings` are those of `simulate`."""

    slo_us: int
    arrivals: Rows
    endings: Rows
    policy: dict[str, Any]
    records: tuple[dict[str, Any], ...]

    def settings(self) -> list[Setting]:
        """Returns what was applied at each step."""
        return [record["seen"]["applied"] for record in self.records]

    def at(self, second: float) -> Setting:
        """Returns what was applied at a time."""
        return [r["seen"]["applied"] for r in self.records if r["seen"]["at_us"] <= second * 1e6][-1]

    def reasons(self) -> set[str]:
        """Returns the reasons of all changes."""
        return {r["decision"]["reason"] for r in self.records if r["decision"]["setting"] != r["seen"]["applied"]}

    def get_p99_us(self, from_s: float, to_s: float) -> int:
        """Returns the 99th percentile of the answers given in that time; 0 without any."""
        answered = self._answered(from_s, to_s)
        times = np.sort(self.endings[answered, _END] - self.arrivals[answered, _AT])
        return int(times[math.floor(0.99 * (len(times) - 1))]) if len(times) else 0

    def get_answered(self, from_s: float, to_s: float) -> float:
        """Returns the answers a second given in that time."""
        return float(np.count_nonzero(self._answered(from_s, to_s))) / (to_s - from_s)

    def _answered(self, from_s: float, to_s: float) -> NDArray[np.bool_]:
        end_us = self.endings[:, _END]
        return (self.endings[:, _START] >= 0) & (from_s * 1e6 <= end_us) & (end_us < to_s * 1e6)

    def count_reversals(self) -> dict[str, int]:
        """Returns how often each lever changed its direction."""
        found = {}
        for lever in LEVERS:
            # No bound on admission is the widest of all.
            values = [s[lever] or (math.inf if lever == "bound_us" else 0) for s in self.settings()]
            signs = [a < b for a, b in itertools.pairwise(values) if a != b]
            found[lever] = sum(a != b for a, b in itertools.pairwise(signs))
        return found

    def replay(self) -> bool:
        """Returns whether the controller decides the same again, from the records alone."""
        state = self.records[0]["before"] if self.records else {}
        for record in self.records:
            if record["before"] != state:
                return False
            decision, state = autopilot_decide(self.policy, record["before"], record["seen"])
            if decision != record["decision"]:
                return False
        return True


def arrive_in_steps(seed: int, steps: Sequence[tuple[float, float]], *, budget_us: int) -> Rows:
    """Returns Poisson arrivals of (rate a second, seconds) one after another."""
    rng = np.random.default_rng(seed)
    parts, begin_s = [], 0.0
    for rate, seconds in steps:
        # So many points anywhere, in order, are a Poisson process.
        parts.append(np.sort(rng.uniform(begin_s, begin_s + seconds, rng.poisson(rate * seconds))))
        begin_s += seconds
    at_us = (np.concatenate(parts) * 1e6).astype(np.int64)
    rows = np.tile(np.array(Arrival(0, budget_us), np.int64), (len(at_us), 1))
    rows[:, :2] += at_us[:, None]
    return rows
