"""What nodes say about their own load, where no gateway has asked them yet. Pure."""

from __future__ import annotations

import math
from typing import Any

from starling.mesh.v1 import node_service_pb2 as pb

_NEWER = 0.2  # share of a report in what is believed: five a second, so a second's worth


def service_s(report: Any) -> float | None:
    """Returns how long a request takes on a node by its load report, queue and engine; None when it answered none.

    A median for each model, weighted by its answers: the distance is not in it.
    """
    answered: int = sum(model.answered_count for model in report.models)
    if not answered:
        return None
    spent_ns: int = sum(
        model.answered_count * (model.queue_p50.ToNanoseconds() + model.compute_p50.ToNanoseconds())
        for model in report.models
    )
    return spent_ns / 1e9 / answered


def read_orca(report: Any) -> tuple[pb.LoadReport, float | None]:
    """Returns what an `OrcaLoadReport` says that a node shows of itself, and how long a request takes on it.

    It covers the last second, without saying so, and names no model. The time is a mean of all of them; None when
    nothing was answered, or another server does not tell it.
    """
    load = pb.LoadReport(cpu_ratio=min(1.0, max(0.0, report.cpu_utilization)))
    load.report_time.GetCurrentTime()
    named = report.named_metrics
    if "compute_us" not in named:
        return load, None
    spent_s = (named["queue_us"] + named["compute_us"]) / 1e6
    return load, spent_s if math.isfinite(spent_s) and spent_s >= 0 else None


def follow_service(before_s: float | None, found_s: float | None) -> float | None:
    """Returns what is believed of how long a request takes after another report, which may not tell."""
    if found_s is None or before_s is None:
        return before_s if found_s is None else found_s
    return before_s + _NEWER * (found_s - before_s)
