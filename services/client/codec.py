"""Requests to bytes and bytes to answers, the same for both clients.

A request is written by hand around its tensors: the small fields by protobuf, then each array's own
memory, joined once. Going through protobuf objects would copy a camera frame twice more.
"""

from __future__ import annotations

from types import MappingProxyType

from google.protobuf.message import DecodeError
from starling.predict.v1.predict_service_pb2 import (
    PredictError,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)
from starling.tensor.v1.tensor_pb2 import Tensor

from .durations import build_duration
from .errors import InvalidInput, MalformedReply
from .fallback import encode_fallback, encode_policy
from .status import read_status_name
from .tensors import build_tensor_head, decode_tensor, get_raw
from .values import Array, Prediction, PredictionError, Request

MESSAGE_BYTES_MAX = 64 * 1024 * 1024  # the node's default limit, in both directions

_LENGTH_DELIMITED = 2  # wire type of bytes and messages


def encode_request(request: Request) -> bytes:
    """Returns a serialized `PredictRequest`.

    Raises:
        InvalidInput: a value has no place on the wire, or the message is larger than 64 MiB.
    """
    parts: list[bytes | memoryview] = [_encode_head(request)]
    for name, array in request.inputs.items():
        parts.extend(_encode_tensor(name, array))
    return _join(parts)


def encode_stream_request(request: Request) -> bytes:
    """Returns a serialized `PredictStreamRequest`; raises what `encode_request` raises."""
    body = encode_request(request)
    return _join([_tag(PredictStreamRequest.REQUEST_FIELD_NUMBER, len(body)), body])


def decode_response(data: bytes, round_trip_us: int) -> Prediction:
    """Returns the answer in a serialized `PredictResponse`.

    Raises:
        MalformedReply: the bytes are no such message, or a tensor in it is inconsistent.
    """
    try:
        return _read_response(PredictResponse.FromString(data), round_trip_us)
    except DecodeError as error:
        raise MalformedReply(f"the reply is no PredictResponse: {error}") from error


def decode_stream_response(data: bytes, round_trip_us: int) -> Prediction | PredictionError:
    """Returns the answer or the refusal in a serialized `PredictStreamResponse`.

    Raises:
        MalformedReply: the bytes are no such message, or it holds neither.
    """
    try:
        reply = PredictStreamResponse.FromString(data)
    except DecodeError as error:
        raise MalformedReply(f"the reply is no PredictStreamResponse: {error}") from error
    if reply.HasField("response"):
        return _read_response(reply.response, round_trip_us)
    if reply.HasField("error"):
        return _read_refusal(reply.error, round_trip_us)
    raise MalformedReply("the stream's reply holds neither an answer nor a refusal")


def _encode_head(request: Request) -> bytes:
    """Returns every field of the request but its tensors."""
    budget_s = request.budget_s
    budget = None if budget_s is None else build_duration(budget_s, "budget_s")
    try:
        head = PredictRequest(
            model_name=request.model,
            model_version=request.version,
            request_id=request.request_id,
            output_names=request.outputs,
            stream_id=request.stream_id,
            sequence=request.sequence,
            priority=request.priority,
            budget=budget,
            cache=None if request.cache is None else encode_policy(request.cache),
            allow=map(encode_fallback, request.allow),
            sequence_id=request.sequence_id,
            sequence_start=request.sequence_start,
            sequence_end=request.sequence_end,
        )
        return head.SerializeToString()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the request cannot be written: {error}") from error


def _encode_tensor(name: str, array: Array) -> list[bytes | memoryview]:
    try:
        head = build_tensor_head(name, array).SerializeToString()
        raw = get_raw(name, array)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"input {name!r} cannot be written: {error}") from error
    data_tag = _tag(Tensor.DATA_FIELD_NUMBER, raw.nbytes)
    size = len(head) + len(data_tag) + raw.nbytes
    return [_tag(PredictRequest.INPUTS_FIELD_NUMBER, size), head, data_tag, raw]


def _join(parts: list[bytes | memoryview]) -> bytes:
    size = sum(len(part) for part in parts)
    if size > MESSAGE_BYTES_MAX:
        raise InvalidInput(
            f"the request has {size} bytes; at most {MESSAGE_BYTES_MAX} travel in one message; "
            "send fewer rows or smaller frames"
        )
    return b"".join(parts)


def _tag(field_number: int, size: int) -> bytes:
    """Returns what stands before a field of `size` bytes: its tag and its length as varints."""
    encoded = bytearray()
    for value in (field_number << 3 | _LENGTH_DELIMITED, size):
        rest = value
        while rest > 0x7F:
            encoded.append(rest & 0x7F | 0x80)
            rest >>= 7
        encoded.append(rest)
    return bytes(encoded)


def _read_response(response: PredictResponse, round_trip_us: int) -> Prediction:
    outputs: dict[str, Array] = {}
    for tensor in response.outputs:
        if tensor.name in outputs:
            raise MalformedReply(f"the reply has two outputs {tensor.name!r}")
        outputs[tensor.name] = decode_tensor(tensor)
    return Prediction(
        model=response.model_name,
        version=response.model_version,
        outputs=MappingProxyType(outputs),
        request_id=response.request_id,
        node=response.node,
        queue_us=response.timing.queue_us,
        batch_wait_us=response.timing.batch_wait_us,
        compute_us=response.timing.compute_us,
        total_us=response.timing.total_us,
        predicted_us=response.timing.predicted_us,
        slack_us=response.timing.slack_us,
        batch_size=response.timing.batch_size,
        from_cache=response.from_cache,
        similarity=response.similarity,
        staleness_ms=response.staleness_ms,
        degraded_to=response.degraded_to,
        round_trip_us=round_trip_us,
    )


def _read_refusal(error: PredictError, round_trip_us: int) -> PredictionError:
    has_delay = error.HasField("retry_delay")
    return PredictionError(
        status=read_status_name(error.code),
        reason=error.reason,
        message=error.message,
        retry_delay_s=error.retry_delay.ToNanoseconds() / 1e9 if has_delay else None,
        request_id=error.request_id,
        metadata=dict(error.facts),
        round_trip_us=round_trip_us,
    )
