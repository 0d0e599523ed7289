"""Calls of the Open Inference Protocol to a node, made from our stubs."""

from __future__ import annotations

import math
from typing import Any

import grpc
import numpy as np
from starling.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse

_SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{_SERVICE}ModelInfer"
STREAM_INFER = f"{_SERVICE}ModelStreamInfer"
WIDTHS = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2,
    "UINT64": 8, "INT64": 8, "FP64": 8,
}  # fmt: skip


def control(channel: grpc.Channel, method: str, request: Any, response: Any) -> Any:
    """Returns the answer of one of the service's unary methods to a message."""
    call = channel.unary_unary(_SERVICE + method, type(request).SerializeToString, response.FromString)
    return call(request, timeout=10)


def infer(channel: grpc.Channel, request: ModelInferRequest, **options: Any) -> ModelInferResponse:
    """Returns the answer to one request."""
    call = channel.unary_unary(INFER, ModelInferRequest.SerializeToString, ModelInferResponse.FromString)
    answer: ModelInferResponse = call(request, **{"timeout": 10, **options})
    return answer


def add_input(
    request: ModelInferRequest,
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    raw: bytes | None = None,
    **parameters: Any,
) -> ModelInferRequest.InferInputTensor:
    """Adds an input, with its raw bytes when they are given; returns it."""
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    set_parameters(tensor.parameters, parameters)
    return tensor


def set_parameters(target: Any, parameters: dict[str, Any]) -> None:
    """Sets parameters: bool, int (as int64), float and text by the type of the value."""
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for key, value in parameters.items():
        setattr(target[key], kinds[type(value)], value)


def echo_infer(value: float = 1.5, model: str = "echo", **fields: Any) -> ModelInferRequest:
    """Returns a request that model `echo` answers with 64 times `value`."""
    request = ModelInferRequest(model_name=model, **fields)
    add_input(request, "x0", "FP32", (1, 64), np.full(64, value, np.float32).tobytes())
    return request


def zeros(datatype: str, shape: tuple[int, ...]) -> bytes:
    """Returns the raw bytes of a tensor of zeros."""
    return bytes(math.prod(shape) * WIDTHS.get(datatype, 4))
