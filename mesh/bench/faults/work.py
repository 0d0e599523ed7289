"""The mesh that is asked: its model takes a set time and computes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mesh.bench.repositories import Pace, write_identity
from mesh.local_mesh import MeshPlan
from services.client import Request
from services.host import Address

_MODEL = "work"
_FLOATS = 4
_QUEUE_MAX = 64


def plan_work(
    folder: Path, delay_ms: int, workers: int, *, edges: int = 2, clouds: int = 0, rtt_ms: float = 0
) -> MeshPlan:
    """Writes a model that answers after `delay_ms`, so many `workers` at a time; returns the plan of its mesh."""
    return MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=write_identity(folder / "models", _MODEL, _FLOATS, pace=Pace(delay_ms, workers, _QUEUE_MAX)),
        models=(_MODEL,),
        edges=edges,
        clouds=clouds,
        rtt_ms=rtt_ms,
        run_dir=folder,
    )


def build_request() -> Request:
    """Returns what agents ask."""
    return Request(model=_MODEL, inputs={"x": np.zeros((1, _FLOATS), np.float32)})
