"""What nodes say about their own load, where no gateway has asked them yet. Pure."""

from __future__ import annotations

from typing import Any

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


def follow_service(before_s: float | None, report: Any) -> float | None:
    """Returns what is believed after another report."""
    found_s = service_s(report)
    if found_s is None or before_s is None:
        return before_s if found_s is None else found_s
    return before_s + _NEWER * (found_s - before_s)
