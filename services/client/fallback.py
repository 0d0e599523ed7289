"""What will do instead of a fresh answer of the model that was asked."""

from __future__ import annotations

from dataclasses import dataclass

from starling.predict.v1.predict_service_pb2 import Alternative, FrameCachePolicy

from .durations import build_duration


@dataclass(frozen=True, slots=True)
class SimilarFrame:
    """The answer to an earlier frame of the stream that looks like this one.

    Attributes:
        max_staleness_s: oldest answer that will do, in seconds, above 0; nodes keep none for longer than ten.
        min_similarity: least structural similarity of the frames' brightness, in (0, 1].
    """

    max_staleness_s: float
    min_similarity: float = 0.95


@dataclass(frozen=True, slots=True)
class LastValue:
    """The stream's last answer, whatever this frame shows.

    Attributes:
        max_staleness_s: oldest answer that will do, in seconds, above 0; nodes keep none for longer than ten.
    """

    max_staleness_s: float


Fallback = str | SimilarFrame | LastValue
"""A smaller model's name, or which earlier answer will do."""


def encode_policy(policy: SimilarFrame) -> FrameCachePolicy:
    """Returns the policy on the wire.

    Raises:
        InvalidInput: the time is not above 0.
    """
    return FrameCachePolicy(
        max_staleness=build_duration(policy.max_staleness_s, "max_staleness_s"),
        min_similarity=policy.min_similarity,
    )


def encode_fallback(fallback: Fallback) -> Alternative:
    """Returns one step of the ladder on the wire.

    Raises:
        InvalidInput: the time is not above 0.
    """
    if isinstance(fallback, str):
        return Alternative(model_name=fallback)
    if isinstance(fallback, SimilarFrame):
        return Alternative(cached=encode_policy(fallback))
    return Alternative(last_value=build_duration(fallback.max_staleness_s, "max_staleness_s"))
