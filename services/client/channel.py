"""How a client is connected: limits, keepalive, and what the two clients share."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import Any

import grpc

from .codec import MESSAGE_BYTES_MAX
from .errors import InvalidInput
from .tls import Tls
from .values import Request

_WORD = re.compile(r"[A-Za-z0-9._-]{1,128}")

Metadata = Sequence[tuple[str, str]]

PREDICT = "/starling.predict.v1.PredictService/Predict"
PREDICT_STREAM = "/starling.predict.v1.PredictService/PredictStream"

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # A robot that drives out of radio range must notice: unacknowledged bytes or pings end the
    # connection after 5 s. Pings only while a call waits, so an idle robot stays silent.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Back in range: try often. The defaults wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Trying again is the caller's decision, see RetryPolicy.
    ("grpc.enable_retries", 0),
    # Every client has its own connection, so one client's reconnecting never delays another's.
    ("grpc.use_local_subchannel_pool", 1),
    # The mesh is near; a proxy that the environment names for the web is not on the way to it.
    ("grpc.enable_http_proxy", 0),
)


def pass_bytes(data: bytes) -> bytes:
    """Returns the bytes as they are: the codec has written them, or will read them."""
    return data


def check_target(target: str) -> str:
    """Returns the target if a channel can be made for it.

    Raises:
        InvalidInput: it is empty, no text, or has no port, for which gRPC would take that of the web.
    """
    if not isinstance(target, str) or not target.strip():
        raise InvalidInput(f"target is {target!r}; expected HOST:PORT such as 127.0.0.1:50051")
    if ":" not in target:
        raise InvalidInput(f"target {target!r} has no port; expected HOST:PORT such as {target.strip()}:50051")
    return target.strip()


def check_deadline(deadline_s: float) -> float:
    """Returns the deadline if a call can have it.

    Raises:
        InvalidInput: it is not a number of seconds above 0.
    """
    if not (isinstance(deadline_s, (int, float)) and math.isfinite(deadline_s) and deadline_s > 0):
        raise InvalidInput(f"deadline_s is {deadline_s!r}; expected a number of seconds above 0")
    return float(deadline_s)


def left_until(end_s: float) -> float:
    """Returns the seconds until a moment of the monotonic clock; a little once it has passed, never 0."""
    return max(end_s - time.monotonic(), 1e-6)


def build_metadata(agent_id: str) -> Metadata:
    """Returns the headers of every call; the gateway keeps an agent's calls together by them.

    Raises:
        InvalidInput: the id cannot stand in a header.
    """
    if not agent_id:
        return ()
    if not (agent_id.isascii() and agent_id.isprintable() and agent_id == agent_id.strip()):
        raise InvalidInput(f"agent_id is {agent_id!r}; expected printable ASCII")
    return (("x-agent-id", agent_id),)


def name_model(metadata: Metadata, request: Request) -> Metadata:
    """Returns the headers of a call with what a gateway chooses nodes by; it would have to read the message otherwise.

    Raises:
        InvalidInput: the label cannot stand in a header.
    """
    if request.label and not _WORD.fullmatch(request.label):
        raise InvalidInput(f"label is {request.label!r}; expected letters, digits, `.`, `_` and `-`")
    other = next((choice for choice in request.allow if isinstance(choice, str)), "")
    given = {"x-model-name": request.model, "x-model-label": request.label, "x-model-allow": other}
    # What is no name is left to the node to refuse.
    named = [(key, value) for key, value in given.items() if _WORD.fullmatch(value)]
    return (*metadata, *named, *([("x-model-version", f"{request.version}")] if request.version else []))


def add_authorization(metadata: Metadata, tls: Tls | None) -> Metadata:
    """Returns the headers of one call with its token.

    Raises:
        InvalidInput: the token cannot be read or sent.
    """
    return metadata if tls is None else (*metadata, *tls.build_authorization())


def build_options(tls: Tls | None) -> tuple[tuple[str, Any], ...]:
    """Returns the options of a channel."""
    return CHANNEL_OPTIONS if tls is None else (*CHANNEL_OPTIONS, *tls.build_options())


def check_credentials(credentials: grpc.ChannelCredentials | None, tls: Tls | None) -> grpc.ChannelCredentials | None:
    """Returns what a channel is made with; None for plain text.

    Raises:
        InvalidInput: both are given, or a file cannot be used.
    """
    if tls is None:
        return credentials
    if credentials is not None:
        raise InvalidInput("credentials and tls are both given; expected one of them")
    return tls.read_credentials()
