"""The single door from a Python exception to a gRPC status with `google.rpc` details.

An exception speaks the wire with two class words, `status` (a canonical gRPC name) and `reason`
(a stable word); its public attributes are the facts. No package needs gRPC to raise one, and this
module does not import it either: the node answers without grpcio.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple

DOMAIN = "starling"

# gRPC peers refuse more than 8 KiB of metadata by default. The message travels twice, once
# percent-encoded and once in the base64 of the details; the bounds keep the worst case below that.
_MESSAGE_BYTES_MAX = 1024
_FACT_BYTES_MAX = 128
_FACTS_MAX = 12
_NOT_FACTS = frozenset({"status", "reason", "retry_delay_s"})

_log = logging.getLogger(__name__)


class StatusCode(IntEnum):
    """Canonical gRPC status codes by name."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class WireError(NamedTuple):
    """A status ready for the transport.

    Attributes:
        code: canonical gRPC code, 1 to 16.
        message: what was found, what was expected, what to do; at most 1 KiB.
        details: serialized `google.rpc.Status` for the trailer `grpc-status-details-bin`.
    """

    code: int
    message: str
    details: bytes


def encode_error(error: BaseException, *, new_incident: Callable[[], str] = lambda: secrets.token_hex(4)) -> WireError:
    """Returns the status that tells a caller about `error`.

    An error with the words `status` and `reason` travels with its text and its facts; a
    `retry_delay_s` attribute (seconds) becomes RetryInfo. Cancellation and timeouts keep their
    meaning. Everything else is INTERNAL outside, without its text, and complete in the log under
    an incident word that the caller gets too.

    Args:
        error: the exception; its traceback is logged only when it has no words.
        new_incident: makes the word that ties the caller's message to the log.
    """
    words = _read_words(error)
    if words is not None:
        code, reason = words
        return _pack(code, str(error) or reason, reason, _read_facts(error), _read_delay(error))
    if isinstance(error, asyncio.CancelledError):
        return _pack(StatusCode.CANCELLED, "the caller cancelled the request", "CANCELLED", {})
    if isinstance(error, TimeoutError):
        text = "the deadline passed before the answer was ready; allow more time"
        return _pack(StatusCode.DEADLINE_EXCEEDED, text, "DEADLINE_PASSED", {})
    incident = new_incident()
    _log.error("internal error, incident %s", incident, exc_info=error)
    text = f"internal error; the process that answered logged it as incident {incident}"
    return _pack(StatusCode.INTERNAL, text, "INTERNAL", {"incident": incident})


def has_words(error: BaseException) -> bool:
    """Returns whether an error is meant for people: it has both class words."""
    return _read_words(error) is not None


def describe_error(error: BaseException) -> str:
    """Returns the text of an error with its notes, for whoever runs this process; notes do not travel."""
    notes = "; ".join(getattr(error, "__notes__", ()))
    return f"{error} ({notes})" if notes else str(error)


def _read_words(error: BaseException) -> tuple[StatusCode, str] | None:
    status, reason = getattr(error, "status", None), getattr(error, "reason", None)
    if not (isinstance(status, str) and isinstance(reason, str) and reason):
        return None
    if status == "OK" or status not in StatusCode.__members__:
        return None
    return StatusCode[status], reason


def _read_delay(error: BaseException) -> float | None:
    delay_s = getattr(error, "retry_delay_s", None)
    return float(delay_s) if isinstance(delay_s, (int, float)) and delay_s >= 0 else None


def _read_facts(error: BaseException) -> dict[str, str]:
    """Returns the public attributes of an error as text, from `__dict__` and `__slots__`."""
    names = list(getattr(error, "__dict__", ()))
    for kind in type(error).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names.extend([slots] if isinstance(slots, str) else slots)
    facts: dict[str, str] = {}
    for name in names:
        if name.startswith("_") or name in _NOT_FACTS or len(facts) == _FACTS_MAX:
            continue
        value = getattr(error, name, None)
        if value is not None and not callable(value):
            facts[name] = _clip(str(value), _FACT_BYTES_MAX)
    return facts


def _pack(
    code: StatusCode,
    message: str,
    reason: str,
    facts: Mapping[str, str],
    retry_delay_s: float | None = None,
) -> WireError:
    # Imported here: errors are rare, and the command line starts 60 ms sooner without protobuf.
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
    from google.rpc.status_pb2 import Status

    message = _clip(message, _MESSAGE_BYTES_MAX)
    status = Status(code=int(code), message=message)
    status.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts))
    if retry_delay_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(retry_delay_s * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return WireError(int(code), message, status.SerializeToString(deterministic=True))


def _clip(text: str, bytes_max: int) -> str:
    """Returns `text` in at most `bytes_max` bytes of UTF-8, marked where it was cut."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= bytes_max:
        return encoded.decode("utf-8")
    return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "…"
