"""The real scheduler in virtual time: arrivals in, one ending each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np

from engines._core import reasons, simulate

_REASONS = reasons()


class Arrival(NamedTuple):
    """One request; times in microseconds from the start. `stream` -1 is none."""

    at_us: int
    deadline_us: int
    priority: int = 0
    tenant: int = 0
    stream: int = -1
    sequence: int = 0
    rows: int = 1

    @property
    def budget_us(self) -> int:
        """Time from arrival to deadline."""
        return self.deadline_us - self.at_us


class Ending(NamedTuple):
    """What became of it; `start_us` is -1 when it never ran, `end_us` is then when that was known."""

    reason: str
    start_us: int
    end_us: int
    predicted_us: int
    batch_rows: int

    @property
    def ran(self) -> bool:
        """Whether an engine computed it."""
        return self.start_us >= 0


@dataclass(frozen=True)
class Machine:
    """One model on one machine."""

    bucket_rows: tuple[int, ...] = (1,)
    bucket_run_us: tuple[int, ...] = (10_000,)
    slots: int = 1
    discipline: str = "deadline"
    batch_delay_us: int = 0
    queue_max: int = 256
    noise: float = 0.0
    seed: int = 0

    def run(self, arrivals: Sequence[Arrival]) -> list[Ending]:
        """Returns the ending of each arrival; the same ones for the same arguments."""
        options = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rows = simulate(np.array(arrivals, np.int64).reshape(-1, len(Arrival._fields)), **options)
        return [Ending(_REASONS[reason], *rest) for reason, *rest in rows.tolist()]

    def get_run_us(self, rows: int) -> int:
        """Returns how long a run of that many rows takes without noise; of the largest bucket if none holds them."""
        for bucket, run_us in zip(self.bucket_rows, self.bucket_run_us, strict=True):
            if bucket >= rows:
                return run_us
        return self.bucket_run_us[-1]


def arrive_at_random(
    rng: Random, *, mean_gap_us: float, until_us: int, budget_us: int, tenant: int = 0
) -> list[Arrival]:
    """Returns a Poisson process of equal requests."""
    arrivals, at_us = [], rng.expovariate(1 / mean_gap_us)
    while at_us < until_us:
        arrivals.append(Arrival(int(at_us), int(at_us) + budget_us, tenant=tenant))
        at_us += rng.expovariate(1 / mean_gap_us)
    return arrivals


def count_good(arrivals: Sequence[Arrival], endings: Sequence[Ending], *, tenant: int | None = None) -> int:
    """Returns how many were answered before their deadline, of one tenant if given."""
    return sum(
        ending.ran and ending.end_us <= arrival.deadline_us
        for arrival, ending in zip(arrivals, endings, strict=True)
        if tenant is None or arrival.tenant == tenant
    )
