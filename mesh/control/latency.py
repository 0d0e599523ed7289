"""Follows the latency of one node: quick to notice a change, deaf to noise, forgetful without news. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mesh.control.estimate import Sighting

SLOWER_S = 0.15  # time constant towards a longer time: what is missed now is missed deadlines
FASTER_S = 0.4  # towards a shorter one: nothing is lost by a second look
STALE_S = 3.0  # without an answer for so long, what was measured begins to be forgotten
FORGET_S = 4.0  # time constant of that: a node that may have recovered is tried again
DRIFT_S = 120.0  # the best that was seen is forgotten this slowly: a node can become slow for good
DEAD_BAND = math.log(1.2)  # a smaller change is noise
BAD_RATIO_MAX = 0.9
FAILS_RATIO = 0.5  # a node that fails more of its tries is broken, not slow


@dataclass(frozen=True, slots=True)
class Latency:
    """What is believed about one node, seen from one place.

    Attributes:
        smoothed_s: follows the measurements.
        settled_s: follows `smoothed_s` in steps that are more than noise; weights are made of this.
        best_s: what the node has shown that it can do.
        newest_s: when its newest answer came; minus infinity before the first.
        at_s: when this was last updated.
        failed_ratio: share of its latest tries that it failed, by what is not the caller's fault.
    """

    smoothed_s: float
    settled_s: float
    best_s: float
    newest_s: float
    at_s: float
    failed_ratio: float = 0.0

    @classmethod
    def assume(cls, prior_s: float, now_s: float) -> Latency:
        """Returns what is believed before any answer."""
        return cls(prior_s, prior_s, prior_s, -math.inf, now_s)

    @property
    def worsened(self) -> bool:
        """Returns whether the node could be much better than it is now."""
        return self.settled_s > 1.5 * self.best_s

    @property
    def fails(self) -> bool:
        """Returns whether the node is broken: more tries of it cost failures and tell little."""
        return self.failed_ratio > FAILS_RATIO


def follow(before: Latency, seen: Sighting | None, now_s: float) -> Latency:
    """Returns what is believed after another look at the node.

    Args:
        before: what was believed; `Latency.assume` before the first look.
        seen: its tries of late; None when there were none.
        now_s: now, not before `before.at_s`.
    """
    elapsed_s = max(0.0, now_s - before.at_s)
    measured_s = None if seen is None else _effective(seen, before)
    if measured_s is not None:
        smoothed_s = _approach(
            before.smoothed_s, measured_s, elapsed_s / (SLOWER_S if measured_s > before.smoothed_s else FASTER_S)
        )
        first = math.isinf(before.newest_s)
        best_s = smoothed_s if first else _approach(before.best_s, smoothed_s, elapsed_s / DRIFT_S)
        best_s = min(best_s, smoothed_s)
    elif before.newest_s < now_s - STALE_S:
        smoothed_s = _approach(before.smoothed_s, before.best_s, elapsed_s / FORGET_S)
        best_s = before.best_s
    else:
        return replace(before, at_s=now_s)
    newest_s = before.newest_s if seen is None else max(before.newest_s, seen.newest_s)
    settled_s = smoothed_s if abs(math.log(smoothed_s / before.settled_s)) > DEAD_BAND else before.settled_s
    failed_ratio = seen.failed_ratio if seen is not None and seen.rate else before.failed_ratio
    return Latency(smoothed_s, settled_s, best_s, newest_s, now_s, failed_ratio)


def _effective(seen: Sighting, before: Latency) -> float | None:
    """Returns the time that a request costs at this node, the tries it refuses included; None without news."""
    bad = min(BAD_RATIO_MAX, seen.refused_ratio + seen.failed_ratio)
    if seen.timed_count and seen.newest_s > before.newest_s:
        return max(seen.mean_s, 1e-6) / (1 - bad)
    if seen.rate and bad:
        return max(before.best_s / (1 - BAD_RATIO_MAX), before.smoothed_s)
    return None


def _approach(from_s: float, to_s: float, steps: float) -> float:
    """Returns the exponential approach in the logarithm: twice and half are equally far."""
    return from_s * math.exp(math.log(to_s / from_s) * (1 - math.exp(-steps)))
