"""What became of one frame, as a value and as a line of text between two processes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """The one class that every sent frame ends in."""

    ANSWERED = "answered"  # in time
    MISSED = "missed"  # after the deadline, or not at all
    REJECTED = "rejected"  # the mesh said in time that it cannot, or that a newer frame took its place
    FAILED = "failed"  # anything else


Detection = tuple[float, float, float, float, float, int]
"""x0, y0, x1, y1 in pixels of the sent frame, score, class index."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One frame of one agent, from its tick to its end.

    Attributes:
        agent: number of the agent, from 0.
        sequence: number of the frame of this agent, from 0.
        due_s: its tick, seconds since the start of the measurement.
        lag_ms: how much later than its tick it was sent; the fleet's own lateness.
        elapsed_ms: tick to answer; of frames without an answer, tick to giving up.
        verdict: what became of it.
        reason: why it was not answered, such as `QUEUE_FULL`; empty otherwise.
        node: who answered; empty if nobody did.
        batch_size: frames in the batch that it was part of; 0 without an answer.
        queue_ms, compute_ms, total_ms: the node's own account.
        predicted_ms: what the node expected `total_ms` to be; 0 if it did not say.
        frame_index: frame of the video that it was cut from.
        x, y: left upper corner of the cut, pixels.
        detections: what was found, best first.
    """

    agent: int
    sequence: int
    due_s: float
    lag_ms: float
    elapsed_ms: float
    verdict: Verdict
    reason: str = ""
    node: str = ""
    batch_size: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    total_ms: float = 0.0
    predicted_ms: float = 0.0
    frame_index: int = 0
    x: int = 0
    y: int = 0
    detections: tuple[Detection, ...] = ()

    def to_line(self) -> str:
        """Returns the outcome as one line of JSON."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return json.dumps(values, separators=(",", ":"))


def read_outcome(values: list[Any]) -> Outcome:
    """Returns the outcome of the values that `to_line` wrote."""
    by_name = {f.name: value for f, value in zip(dataclasses.fields(Outcome), values, strict=True)}
    by_name["verdict"] = Verdict(by_name["verdict"])
    by_name["detections"] = tuple(tuple(each) for each in by_name["detections"])
    return Outcome(**by_name)


def judge(elapsed_ms: float, deadline_ms: float, status: str) -> Verdict:
    """Returns the class of one frame.

    Args:
        elapsed_ms: tick to answer or error.
        deadline_ms: time the agent can use an answer.
        status: canonical gRPC status name; `OK` for an answer.

    >>> judge(40, 100, "OK"), judge(101, 100, "OK")
    (<Verdict.ANSWERED: 'answered'>, <Verdict.MISSED: 'missed'>)
    >>> judge(3, 100, "ABORTED"), judge(3, 100, "INTERNAL")
    (<Verdict.REJECTED: 'rejected'>, <Verdict.FAILED: 'failed'>)
    """
    match status:
        case "OK":
            return Verdict.ANSWERED if elapsed_ms <= deadline_ms else Verdict.MISSED
        case "DEADLINE_EXCEEDED":
            return Verdict.MISSED
        case "RESOURCE_EXHAUSTED" | "UNAVAILABLE" | "ABORTED":
            return Verdict.REJECTED
        case _:
            return Verdict.FAILED
