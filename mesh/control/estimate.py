"""What the answers of the last moments say about a node: latency, errors, rate. Pure, time is an argument."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

WINDOW_S = 1.0
"""Answers younger than this count: a change is seen in half of it."""

_AGE_MAX_S = 10.0  # older answers tell nothing about now
_SAMPLES_MIN = 4  # fewer in the window: older ones help out
_SAMPLES_MAX = 2000


class Ending(StrEnum):
    """How a try at a node ended."""

    ANSWERED = "answered"
    LATE = "late"  # its deadline passed; the node needed at least this long
    REFUSED = "refused"  # full, or it could not make the deadline
    FAILED = "failed"  # broken


_TIMED = (Ending.ANSWERED, Ending.LATE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One try at a node.

    Attributes:
        at_s: when it ended, by our clock.
        latency_s: from the first byte to the node until the last one from it, the way included.
        ending: how it ended.
    """

    at_s: float
    latency_s: float
    ending: Ending


@dataclass(frozen=True, slots=True)
class Sighting:
    """A node as one gateway saw it lately.

    Attributes:
        timed_count: tries that say how long the node takes.
        mean_s, p50_s, p95_s: their latency; with few of them p95 is a lower quantile, as far as they can tell.
        refused_ratio, failed_ratio: share of all tries.
        rate: tries per second.
        in_flight: mean number under way, by Little's law.
        newest_s: when the last timed one ended.
    """

    timed_count: int
    mean_s: float
    p50_s: float
    p95_s: float
    refused_ratio: float
    failed_ratio: float
    rate: float
    in_flight: float
    newest_s: float


class Window:
    """The latest tries at one node, bounded in age and number."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=_SAMPLES_MAX)

    def add(self, samples: Iterable[Sample]) -> None:
        """Takes tries, oldest first."""
        self._samples.extend(samples)

    def look(self, now_s: float) -> Sighting | None:
        """Returns what the window shows, None when it is empty; forgets what is too old."""
        while self._samples and self._samples[0].at_s < now_s - _AGE_MAX_S:
            self._samples.popleft()
        return summarise(self._samples, now_s)

    def __len__(self) -> int:
        """Returns the number of tries it holds."""
        return len(self._samples)

    def __repr__(self) -> str:
        """Returns the number of tries."""
        return f"<Window {len(self._samples)}>"


def summarise(samples: Sequence[Sample] | deque[Sample], now_s: float) -> Sighting | None:
    """Returns what tries say, those of the last second and, if they are few, some older ones; None without any.

    Args:
        samples: oldest first.
        now_s: when the last second ends.

    >>> tries = [Sample(0.1 * i, 0.010, Ending.ANSWERED) for i in range(10)]
    >>> summarise(tries, 1.0).p50_s
    0.01
    """
    if not samples:
        return None
    begin_s = now_s - WINDOW_S
    recent = list(takewhile(lambda sample: sample.at_s >= begin_s, reversed(samples)))
    recent.reverse()
    newest_s = -math.inf
    timed: list[float] = []
    for sample in reversed(samples):  # newest first
        if sample.at_s < begin_s and len(timed) >= _SAMPLES_MIN:
            break
        if sample.ending in _TIMED:
            newest_s = max(newest_s, sample.at_s)
            timed.append(sample.latency_s)
    timed.sort()
    tries = len(recent)
    rate = tries / WINDOW_S
    busy_s = sum(s.latency_s for s in recent)
    return Sighting(
        timed_count=len(timed),
        mean_s=sum(timed) / len(timed) if timed else math.nan,
        p50_s=quantile(timed, 0.5),
        # The highest of n values is on average their n/(n+1) quantile: few values cannot show more.
        p95_s=quantile(timed, min(0.95, len(timed) / (len(timed) + 1))),
        refused_ratio=sum(s.ending is Ending.REFUSED for s in recent) / tries if tries else 0.0,
        failed_ratio=sum(s.ending is Ending.FAILED for s in recent) / tries if tries else 0.0,
        rate=rate,
        in_flight=busy_s / WINDOW_S,
        newest_s=newest_s,
    )


def quantile(ordered: Sequence[float], q: float) -> float:
    """Returns the q-quantile of ordered values, interpolated; not a number when there are none.

    >>> quantile([1.0, 2.0, 3.0], 0.5), quantile([1.0, 3.0], 0.75)
    (2.0, 2.5)
    """
    if not ordered:
        return math.nan
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
