"""Seconds on the wire."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration

from .errors import InvalidInput

_DURATION_S_MAX = 315_576_000_000.0  # what google.protobuf.Duration can hold


def build_duration(seconds: float, what: str) -> Duration:
    """Returns a protobuf duration.

    Raises:
        InvalidInput: the time is not above 0, or more than a duration holds.
    """
    if not (math.isfinite(seconds) and 0 < seconds <= _DURATION_S_MAX):
        raise InvalidInput(f"{what} is {seconds!r}; expected a number of seconds above 0")
    duration = Duration()
    duration.FromNanoseconds(max(1, round(seconds * 1e9)))
    return duration
