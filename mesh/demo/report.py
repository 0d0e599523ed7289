"""What the run was: counts, latencies, throughput, batch sizes; in all, per tier and per node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.demo.outcome import Outcome, Verdict

NOBODY = "nobody"
"""Stands for the node of frames that no node answered, so that the nodes add up to all."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Aggregate of some frames.

    Latencies run from the agent's tick. They count answered and missed frames; a frame without any
    answer counts with the time after which its agent gave up, a lower bound. Rejected and failed
    frames have no latency.

    Attributes:
        sent, answered, missed, rejected, failed: number of frames; the last four add up to the
            first.
        p50_ms, p95_ms, p99_ms: latency; None without any.
        queue_p50_ms, compute_p50_ms: median of the nodes' own accounts of waiting and of working.
        prediction_error_p50_ms, prediction_error_p99_ms: how far off the nodes were when they predicted
            at admission how long they would take; of answered and missed frames, None without any.
        throughput_rps: answers in time per second.
        batch_sizes: number of frames by the size of the batch that they were part of.
    """

    sent: int
    answered: int
    missed: int
    rejected: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    queue_p50_ms: float | None
    compute_p50_ms: float | None
    prediction_error_p50_ms: float | None
    prediction_error_p99_ms: float | None
    throughput_rps: float
    batch_sizes: Mapping[int, int]

    def to_json(self) -> dict[str, Any]:
        """Returns the summary as `report.json` holds it."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "missed": self.missed,
            "rejected": self.rejected,
            "failed": self.failed,
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "p99_ms": self.p99_ms,
            "queue_p50_ms": self.queue_p50_ms,
            "compute_p50_ms": self.compute_p50_ms,
            "prediction_error_p50_ms": self.prediction_error_p50_ms,
            "prediction_error_p99_ms": self.prediction_error_p99_ms,
            "throughput_rps": self.throughput_rps,
            "batch_sizes": {str(size): count for size, count in self.batch_sizes.items()},
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Aggregate of a run.

    Attributes:
        total: every frame.
        by_tier: frames by the tier that answered, only tiers of the mesh.
        by_node: frames by the node that answered, and `nobody` if there are such.
        tier_by_node: tier of each node.
        reasons: number of frames by why they were not answered in time.
        lag_ms_p99: how late the fleet itself was; large means that the machine, not the mesh, was
            too slow.
        flown_s: length of the measurement.
    """

    total: Summary
    by_tier: Mapping[str, Summary]
    by_node: Mapping[str, Summary]
    tier_by_node: Mapping[str, str]
    reasons: Mapping[str, int]
    lag_ms_p99: float | None
    flown_s: float

    @property
    def is_good(self) -> bool:
        """Tells whether something was answered and nothing failed."""
        return self.total.answered > 0 and self.total.failed == 0

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `report.json` holds it."""
        return {
            **self.total.to_json(),
            "measured_s": round(self.flown_s, 3),
            "fleet_lag_ms_p99": self.lag_ms_p99,
            "reasons": dict(self.reasons),
            "tiers": {tier: summary.to_json() for tier, summary in self.by_tier.items()},
            "nodes": {
                node: {"tier": self.tier_by_node.get(node, ""), **summary.to_json()}
                for node, summary in self.by_node.items()
            },
        }


def build_report(outcomes: Iterable[Outcome], tier_by_node: Mapping[str, str], flown_s: float) -> Report:
    """Returns the aggregate of a run.

    Args:
        outcomes: every frame that was sent, once.
        tier_by_node: every node of the mesh, in the order of the report.
        flown_s: length of the measurement; 0 gives a throughput of 0.
    """
    frames = list(outcomes)
    by_node: dict[str, list[Outcome]] = {node: [] for node in tier_by_node}
    for outcome in frames:
        by_node.setdefault(outcome.node or NOBODY, []).append(outcome)
    by_tier: dict[str, list[Outcome]] = {tier: [] for tier in tier_by_node.values()}
    for outcome in frames:
        if outcome.node in tier_by_node:
            by_tier[tier_by_node[outcome.node]].append(outcome)
    reasons = Counter(outcome.reason for outcome in frames if outcome.reason)
    return Report(
        total=summarise(frames, flown_s),
        by_tier={tier: summarise(some, flown_s) for tier, some in by_tier.items()},
        by_node={node: summarise(some, flown_s) for node, some in by_node.items()},
        tier_by_node=dict(tier_by_node),
        reasons=dict(reasons.most_common()),
        lag_ms_p99=get_percentile([outcome.lag_ms for outcome in frames], 99),
        flown_s=flown_s,
    )


def summarise(outcomes: Sequence[Outcome], flown_s: float) -> Summary:
    """Returns the aggregate of some frames."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    timed = (Verdict.ANSWERED, Verdict.MISSED)
    latencies_ms = sorted(o.elapsed_ms for o in outcomes if o.verdict in timed)
    batch_sizes = Counter(o.batch_size for o in outcomes if o.batch_size)
    errors_ms = sorted(round(abs(o.total_ms - o.predicted_ms), 3) for o in outcomes if o.predicted_ms)
    return Summary(
        sent=len(outcomes),
        answered=counts[Verdict.ANSWERED],
        missed=counts[Verdict.MISSED],
        rejected=counts[Verdict.REJECTED],
        failed=counts[Verdict.FAILED],
        p50_ms=get_percentile(latencies_ms, 50),
        p95_ms=get_percentile(latencies_ms, 95),
        p99_ms=get_percentile(latencies_ms, 99),
        queue_p50_ms=get_percentile([o.queue_ms for o in outcomes if o.batch_size], 50),
        compute_p50_ms=get_percentile([o.compute_ms for o in outcomes if o.batch_size], 50),
        prediction_error_p50_ms=get_percentile(errors_ms, 50),
        prediction_error_p99_ms=get_percentile(errors_ms, 99),
        throughput_rps=round(counts[Verdict.ANSWERED] / flown_s, 2) if flown_s > 0 else 0.0,
        batch_sizes=dict(sorted(batch_sizes.items())),
    )


def get_percentile(values: Sequence[float], percent: float) -> float | None:
    """Returns the nearest-rank percentile, None of no values.

    >>> get_percentile([4, 1, 3, 2], 50), get_percentile([4, 1, 3, 2], 99), get_percentile([], 50)
    (2, 4, None)
    """
    if not values:
        return None
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]
