"""Every frame ends in exactly one class, and crosses between processes unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.demo.messages import Ended, FirstAnswer, Started, read_message, write_message
from mesh.demo.outcome import Outcome, Verdict, judge

_MS = st.floats(0, 1e6)


@pytest.mark.parametrize(
    ("elapsed_ms", "status", "verdict"),
    [
        (99.9, "OK", Verdict.ANSWERED),
        (100.0, "OK", Verdict.ANSWERED),
        (100.1, "OK", Verdict.MISSED),
        (100.0, "DEADLINE_EXCEEDED", Verdict.MISSED),
        (3.0, "RESOURCE_EXHAUSTED", Verdict.REJECTED),
        (3.0, "UNAVAILABLE", Verdict.REJECTED),
        (3.0, "ABORTED", Verdict.REJECTED),  # superseded by a newer frame
        (101.0, "RESOURCE_EXHAUSTED", Verdict.REJECTED),
        (3.0, "INTERNAL", Verdict.FAILED),
        (3.0, "INVALID_ARGUMENT", Verdict.FAILED),
        (3.0, "CANCELLED", Verdict.FAILED),
    ],
)
def test_a_frame_is_judged(elapsed_ms: float, status: str, verdict: Verdict) -> None:
    assert judge(elapsed_ms, 100.0, status) is verdict


@settings(deadline=None)
@given(
    st.builds(
        Outcome,
        agent=st.integers(0, 999),
        sequence=st.integers(0),
        due_s=_MS,
        lag_ms=_MS,
        elapsed_ms=_MS,
        verdict=st.sampled_from(Verdict),
        reason=st.text(),
        node=st.text(),
        total_ms=_MS,
        predicted_ms=_MS,
        detections=st.lists(st.tuples(_MS, _MS, _MS, _MS, _MS, st.integers(0, 79))).map(tuple),
    )
)
def test_an_outcome_crosses_between_processes(outcome: Outcome) -> None:
    line = write_message(outcome)
    assert "\n" not in line
    assert read_message(line) == outcome


@pytest.mark.parametrize(
    "message",
    [FirstAnswer(), Started({"name": "nanodet", "version": 1}, ("person",)), Ended(19.98)],
)
def test_a_message_crosses_between_processes(message: FirstAnswer | Started | Ended) -> None:
    assert read_message(write_message(message)) == message


@pytest.mark.parametrize("line", ["", "hello", "{}", '{"flown_s": "long"}', "[1, 2]"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_message(line)
