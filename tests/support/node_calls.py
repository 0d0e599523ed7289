"""Raw calls to a node: bytes in and out, and the facts of a refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from starling.predict.v1.predict_service_pb2 import PredictRequest
from starling.tensor.v1.tensor_pb2 import DataType, Tensor

PREDICT = "/starling.predict.v1.PredictService/Predict"
PREDICT_STREAM = "/starling.predict.v1.PredictService/PredictStream"


class Refusal(NamedTuple):
    """Why a call was not answered; `reason` is empty without ErrorInfo of ours."""

    code: grpc.StatusCode
    reason: str
    text: str
    facts: dict[str, str]
    retry_s: float | None


def pass_bytes(data: bytes) -> bytes:
    return data


def raw_method(channel: grpc.Channel, name: str = PREDICT) -> Callable[..., bytes]:
    """Returns a unary method that sends and returns bytes."""
    method: Callable[..., bytes] = channel.unary_unary(name, pass_bytes, pass_bytes)
    return method


def refused(call: Callable[[], object]) -> Refusal:
    """Returns the refusal that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return read_refusal(caught.value)


def read_refusal(error: Any) -> Refusal:
    """Returns the facts of a gRPC error."""
    info, retry = ErrorInfo(), RetryInfo()
    retry_s = None
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        status = Status.FromString(value)
        assert (status.code, status.message) == (error.code().value[0], error.details())
        for detail in status.details:
            detail.Unpack(info)
            if detail.Unpack(retry):
                retry_s = retry.retry_delay.ToNanoseconds() / 1e9
    assert info.domain in ("", "starling")
    return Refusal(error.code(), info.reason, error.details() or "", dict(info.metadata), retry_s)


def tensor(name: str, shape: tuple[int, ...], kind: int = DataType.DATA_TYPE_FP32, data: bytes | None = None) -> Tensor:
    """Returns a tensor; without data, as many zero bytes as an FP32 or UINT8 tensor of that shape has."""
    width = 4 if kind == DataType.DATA_TYPE_FP32 else 1
    filled = bytes(width * math.prod(shape)) if data is None else data
    return Tensor(name=name, data_type=DataType.Name(kind), shape=shape, data=filled)


def echo_request(value: float = 0.0, **fields: Any) -> PredictRequest:
    """Returns a request that model `echo` answers with 64 times `value`."""
    data = np.full((1, 64), value, np.float32).tobytes()
    filled: dict[str, Any] = {"model_name": "echo", "inputs": [tensor("x0", (1, 64), data=data)], **fields}
    return PredictRequest(**filled)
