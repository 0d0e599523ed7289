"""One door for errors: words and facts go out, the text of foreign errors stays in."""

import asyncio
import logging
from urllib.parse import quote

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.host import DOMAIN, StatusCode, WireError, describe_error, encode_error, has_words


class QueueFullError(Exception):
    status = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"

    def __init__(self, model: str, queued: int, retry_delay_s: float) -> None:
        self.model = model
        self.queued = queued
        self.retry_delay_s = retry_delay_s
        self._secret = "hidden"
        super().__init__(f"{model} has {queued} requests waiting; try again later")


def unpack(wire: WireError) -> tuple[ErrorInfo, float | None]:
    status = Status.FromString(wire.details)
    assert (status.code, status.message) == (wire.code, wire.message)
    info, delay_s = ErrorInfo(), None
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            delay_s = retry.retry_delay.ToNanoseconds() / 1e9
        else:
            assert detail.Unpack(info)
    assert info.domain == DOMAIN
    return info, delay_s


def test_a_note_is_for_who_runs_the_process_and_does_not_travel() -> None:
    error = QueueFullError("nanodet", 8, 0.1)
    error.add_note("looked for /srv/models/nanodet")
    assert describe_error(error) == f"{error} (looked for /srv/models/nanodet)"
    info, _ = unpack(encode_error(error))
    assert "/srv" not in encode_error(error).message + str(info)


def test_words_facts_and_retry_delay_travel() -> None:
    wire = encode_error(QueueFullError("nanodet", 64, 0.25))
    info, delay_s = unpack(wire)
    assert wire.code == StatusCode.RESOURCE_EXHAUSTED
    assert wire.message == "nanodet has 64 requests waiting; try again later"
    assert info.reason == "QUEUE_FULL"
    assert dict(info.metadata) == {"model": "nanodet", "queued": "64"}
    assert delay_s == 0.25


def test_slots_are_facts_too() -> None:
    class SlottedError(Exception):
        __slots__ = ("version",)
        status = "NOT_FOUND"
        reason = "MODEL_NOT_FOUND"
        version: int

    error = SlottedError()
    error.version = 7
    wire = encode_error(error)
    info, delay_s = unpack(wire)
    assert (wire.code, wire.message) == (5, "MODEL_NOT_FOUND")
    assert dict(info.metadata) == {"version": "7"}
    assert delay_s is None


def test_an_unknown_error_is_internal_outside_and_complete_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        wire = encode_error(KeyError("password=hunter2"), new_incident=lambda: "c0ffee")
    info, _ = unpack(wire)
    assert wire.code == StatusCode.INTERNAL
    assert "hunter2" not in wire.message
    assert "c0ffee" in wire.message
    assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"incident": "c0ffee"})
    assert "hunter2" in caplog.text
    assert "c0ffee" in caplog.text


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (asyncio.CancelledError(), StatusCode.CANCELLED, "CANCELLED"),
        (TimeoutError(), StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED"),
    ],
)
def test_cancellation_and_timeouts_keep_their_meaning(
    error: BaseException, code: StatusCode, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    wire = encode_error(error)
    assert (wire.code, unpack(wire)[0].reason) == (code, reason)
    assert not caplog.records


@pytest.mark.parametrize("status", ["OK", "FULL", 8, None])
def test_a_wrong_status_word_is_no_word(status: object) -> None:
    error = Exception("text")
    error.status = status  # type: ignore[attr-defined]
    error.reason = "QUEUE_FULL"  # type: ignore[attr-defined]
    assert not has_words(error)
    assert encode_error(error).code == StatusCode.INTERNAL


def test_a_huge_error_still_fits_into_the_trailers() -> None:
    class HugeError(Exception):
        status = "INVALID_ARGUMENT"
        reason = "INVALID_INPUT"

    error = HugeError("\u00e9" * 10_000)
    for index in range(100):
        setattr(error, f"fact_{index}", "\u00e9" * 10_000)
    wire = encode_error(error)
    assert len(quote(wire.message)) + len(wire.details) * 4 // 3 < 8192 - 256
    assert wire.message.endswith("…")
    assert len(unpack(wire)[0].metadata) == 12


def test_codes_are_the_canonical_ones() -> None:
    import grpc

    assert {c.name: int(c) for c in StatusCode} == {c.name: c.value[0] for c in grpc.StatusCode}
