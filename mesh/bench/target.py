"""A server among those that are compared: what it is asked, and its loads as cells of a row."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mesh.bench.result import spread
from mesh.bench.rig import PREDICT, BenchFailed, Load, Rig
from mesh.child import Child

_RESTART_S = 5.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server and its requests.

    Attributes:
        name: shown.
        child: its process.
        requests: file of each kind of work.
        method: what it is asked by.
        restarts: it starts the crashed process of a model again, as Triton does.
    """

    name: str
    child: Child
    requests: Mapping[Any, Path]
    method: str = PREDICT
    restarts: bool = False

    async def load(self, rig: Rig, work: str | int, *, outstanding: int, seconds: float, notes: list[str]) -> Load:
        """Returns what a run of the load generator saw; after a crash that of a second one, which is noted.

        Raises:
            BenchFailed: a request failed, or the generator did.
        """
        try:
            return await self._load(rig, work, outstanding, seconds)
        except BenchFailed as error:
            if not self.restarts:
                raise
            notes.append(f"{self.name}, {work}, {outstanding} calls: measured again after {error}")
            await asyncio.sleep(_RESTART_S)
            return await self._load(rig, work, outstanding, seconds)

    async def _load(self, rig: Rig, work: str | int, outstanding: int, seconds: float) -> Load:
        request = self.requests[work]
        return await rig.load(self.child, request, outstanding=outstanding, seconds=seconds, method=self.method)


def describe_loads(runs: Sequence[Load]) -> dict[str, float]:
    """Returns requests a second and round trips of several runs."""
    return {
        **describe_rates([run.rps for run in runs]),
        "p50 us": round(median(run.p50_us for run in runs)),
        "p99 us": round(median(run.p99_us for run in runs)),
    }


def describe_rates(rps: Sequence[float]) -> dict[str, float]:
    """Returns the median and the extremes of requests a second."""
    found = spread(rps)
    return {"req/s": round(found["median"]), "min": round(found["min"]), "max": round(found["max"])}
