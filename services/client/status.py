"""From a gRPC status to one of our errors: the client's half of the error contract."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from . import errors
from .errors import StarlingError

_DOMAIN = "starling"
_DETAILS_KEY = "grpc-status-details-bin"

_BY_REASON: dict[str, type[StarlingError]] = {
    kind.default_reason: kind
    for kind in (
        errors.InvalidInput,
        errors.ModelNotFound,
        errors.ModelNotReady,
        errors.QueueFull,
        errors.DeadlineUnmeetable,
        errors.SequenceNotFound,
        errors.SequencesFull,
        errors.Superseded,
        errors.DeadlineExceeded,
        errors.Draining,
        errors.Cancelled,
    )
}
_BY_STATUS: dict[str, type[StarlingError]] = {
    "INVALID_ARGUMENT": errors.InvalidInput,
    "NOT_FOUND": errors.NotFound,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "UNAVAILABLE": errors.Unavailable,
    "CANCELLED": errors.Cancelled,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "INTERNAL": errors.InternalError,
    "DATA_LOSS": errors.InternalError,
}
_NO_ADDRESS = re.compile(r"^failed to connect to all addresses; last error: [A-Z_]+: ")  # gRPC's, before the cause
_STATUS_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def build_error(
    status: str,
    message: str,
    *,
    reason: str = "",
    metadata: dict[str, str] | None = None,
    retry_delay_s: float | None = None,
) -> StarlingError:
    """Returns the error that a status and a reason stand for.

    A reason counts only together with its own status, so a foreign word never changes what a status
    means.
    """
    kind = _BY_REASON.get(reason)
    if kind is None or kind.status != status:
        kind = _BY_STATUS.get(status, StarlingError)
    return kind(message, reason=reason, metadata=metadata, retry_delay_s=retry_delay_s, status=status)


def read_status_name(code: int) -> str:
    """Returns the canonical name of a status code; `UNKNOWN` for a number that is none."""
    return _STATUS_NAMES.get(code, "UNKNOWN")


def translate_rpc_error(error: grpc.RpcError, *, target: str, deadline_s: float) -> StarlingError:
    """Returns our error for what a gRPC call raised.

    Args:
        error: raised by a call, so it has a code, a text and trailers.
        target: address that was called, for the message.
        deadline_s: time that the call was given, for the message.
    """
    call: Any = error
    status = call.code().name if callable(getattr(call, "code", None)) else "UNKNOWN"
    text = call.details() or "" if callable(getattr(call, "details", None)) else str(error)
    trailers = call.trailing_metadata() if hasattr(call, "trailing_metadata") else None
    info, retry_delay_s = _read_details(trailers or ())
    if info is not None:
        return build_error(
            status,
            text,
            reason=info.reason,
            metadata=dict(info.metadata),
            retry_delay_s=retry_delay_s,
        )
    if status == "DEADLINE_EXCEEDED":
        text = f"no answer from {target} within {deadline_s:.3g} s; allow more time or send less"
        return build_error(status, text, reason="DEADLINE_PASSED")
    if status == "UNAVAILABLE":
        text = f"cannot reach {target}: {trim_cause(text)}; check the address and that it is up"
    if status == "UNIMPLEMENTED":
        text = f"{target} answers gRPC and does not know this call ({text}); expected a gateway or a node there"
    return build_error(status, text or f"{target} ended the call with {status}")


def trim_cause(text: str) -> str:
    """Returns why gRPC could not connect, without what it says before every such cause.

    >>> trim_cause("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused")
    'ipv4:127.0.0.1:1: Connection refused'
    """
    return _NO_ADDRESS.sub("", text)


def _read_details(
    trailers: Iterable[tuple[str, str | bytes]],
) -> tuple[ErrorInfo | None, float | None]:
    """Returns our ErrorInfo and the retry delay in seconds, each None where there is none."""
    for key, value in trailers:
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            details = Status.FromString(value).details
            info, retry = ErrorInfo(), RetryInfo()
            has_info = any(detail.Unpack(info) for detail in details)
            has_retry = any(detail.Unpack(retry) for detail in details)
        except DecodeError:
            return None, None
        delay_s = max(0.0, retry.retry_delay.ToNanoseconds() / 1e9) if has_retry else None
        return (info if has_info and info.domain == _DOMAIN else None), delay_s
    return None, None
