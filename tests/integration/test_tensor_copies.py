"""Tensors are copied into their batch and out of the engine, and nowhere else: the node counts what goes beyond."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from starling.inference import open_inference_pb2 as pb
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictStreamRequest
from starling.tensor.v1.tensor_pb2 import DataType, Tensor

from tests.support.infer_calls import INFER, STREAM_INFER, add_input
from tests.support.node import RunningNode
from tests.support.node_calls import PREDICT, PREDICT_STREAM, pass_bytes

# Less than a kilobyte at either end of what the node read at a time is copied; larger tensors have few such ends.
_EDGES = 0.05
_SIZES = (4, 80, 5_000, 150_000, 3_000_000)


def _predict(size: int) -> PredictRequest:
    tensor = Tensor(name="x0", data_type=DataType.DATA_TYPE_UINT8, shape=(1, size), data=bytes(size))
    return PredictRequest(model_name="bytes", inputs=[tensor])


def _raw(size: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="bytes")
    add_input(request, "x0", "UINT8", (1, size), bytes(size))
    return request


def _small_integers(size: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="bytes")
    add_input(request, "x0", "UINT8", (1, size)).contents.uint_contents.extend([7] * size)
    return request


def _floats(size: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="floats")
    add_input(request, "x0", "FP32", (1, size // 4)).contents.fp32_contents.extend([1] * (size // 4))
    return request


def _texts(size: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="texts")
    add_input(request, "x0", "BYTES", (1, 2)).contents.bytes_contents.extend([bytes(size - 3), b"abc"])
    return request


def _call(channel: grpc.Channel, request: PredictRequest | pb.ModelInferRequest, *, streamed: bool) -> bytes:
    predict = isinstance(request, PredictRequest)
    if not streamed:
        method = channel.unary_unary(PREDICT if predict else INFER, pass_bytes, pass_bytes)
        return bytes(method(request.SerializeToString(), timeout=30))
    stream = channel.stream_stream(PREDICT_STREAM if predict else STREAM_INFER, pass_bytes, pass_bytes)
    message = PredictStreamRequest(request=request) if isinstance(request, PredictRequest) else request
    (answer,) = stream(iter([message.SerializeToString()]), timeout=30)
    return bytes(answer)


def _count(node: RunningNode) -> list[float]:
    samples = dict(line.rsplit(" ", 1) for line in node.read_metrics().splitlines() if not line.startswith("#"))
    ways = ("in", "in_copied", "out", "out_copied")
    return [float(samples[f"starling_tensor_bytes_{way}_total"]) for way in ways]


@pytest.mark.parametrize("streamed", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("size", _SIZES)
@pytest.mark.parametrize("make", [_predict, _raw, _small_integers, _floats, _texts])
def test_a_tensor_is_copied_at_most_once_each_way(
    node: RunningNode,
    channel: grpc.Channel,
    make: Callable[[int], PredictRequest | pb.ModelInferRequest],
    size: int,
    streamed: bool,
) -> None:
    request = make(size)
    before = _count(node)
    assert len(_call(channel, request, streamed=streamed)) > size
    into, into_again, out, out_again = (now - was for now, was in zip(_count(node), before, strict=True))
    assert into >= size
    assert out >= size
    assert into_again <= (_EDGES * into if size > 5_000 else 0)
    assert out_again == 0
