"""Tests of the error tree that engines raise."""

import pytest

from engines import EngineError, InvalidInput, QueueFull, errors

CANONICAL = {
    "ABORTED",
    "ALREADY_EXISTS",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNAVAILABLE",
}


def every_error() -> list[type[EngineError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EngineError)]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_a_canonical_status_and_an_upper_case_reason(
    kind: type[EngineError],
) -> None:
    assert kind.status in CANONICAL
    assert kind.reason == kind.reason.upper()


def test_facts_are_attributes_and_stay_out_of_the_text() -> None:
    error = InvalidInput("input `frame` is missing; send it", model="nanodet", version=3)
    assert str(error) == "input `frame` is missing; send it"
    assert error.facts == {"model": "nanodet", "version": 3}


def test_queue_full_never_asks_to_retry_at_once() -> None:
    assert QueueFull("full", retry_delay_ms=0).retry_delay_ms == 1
    assert QueueFull("full", 25, model="m").facts == {
        "retry_delay_ms": 25,
        "model": "m",
    }
