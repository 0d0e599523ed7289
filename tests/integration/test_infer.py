"""The Open Inference Protocol on a node: the same models, path and answers as Predict, in another format."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from starling.inference.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

from services.client import Client
from tests.support.infer_calls import INFER, STREAM_INFER, WIDTHS, add_input, echo_infer, infer, set_parameters
from tests.support.node import RunningNode, StartNode
from tests.support.node_calls import refused

TYPED = {
    "BOOL": ("bool_contents", np.bool_, [True, False, True]),
    "UINT8": ("uint_contents", np.uint8, [0, 1, 255]),
    "UINT16": ("uint_contents", np.uint16, [0, 300, 65535]),
    "UINT32": ("uint_contents", np.uint32, [0, 1, 2**32 - 1]),
    "UINT64": ("uint64_contents", np.uint64, [0, 1, 2**64 - 1]),
    "INT8": ("int_contents", np.int8, [-128, 0, 127]),
    "INT16": ("int_contents", np.int16, [-32768, 0, 32767]),
    "INT32": ("int_contents", np.int32, [-(2**31), 0, 2**31 - 1]),
    "INT64": ("int64_contents", np.int64, [-(2**63), 0, 2**63 - 1]),
    "FP32": ("fp32_contents", np.float32, [-1.5, 0.0, 3e38]),
    "FP64": ("fp64_contents", np.float64, [-1.5, 0.0, 1e300]),
}
ORDER = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
)  # fmt: skip
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def stream(channel: grpc.Channel, requests: Iterator[ModelInferRequest]) -> Any:
    call = channel.stream_stream(STREAM_INFER, ModelInferRequest.SerializeToString, ModelStreamInferResponse.FromString)
    return call(requests, timeout=10)


def floats(answer: ModelInferResponse, index: int = 0) -> list[float]:
    values: list[float] = np.frombuffer(answer.raw_output_contents[index], np.float32).tolist()
    return values


def strings(raw: bytes) -> list[str]:
    """Returns the elements of a BYTES tensor."""
    out = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        out.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return out


def test_raw_tensors_of_every_type_come_back_bit_by_bit(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="every-type", id="r-ü")
    rng = np.random.default_rng(5)
    for i, kind in enumerate(ORDER):
        raw = rng.integers(0, 2 if kind == "BOOL" else 256, 6 * WIDTHS.get(kind, 4), np.uint8)
        add_input(request, f"x{i}", kind, (2, 3), raw.tobytes())
    answer = infer(channel, request)
    assert (answer.model_name, answer.model_version, answer.id) == ("every-type", "1", "r-ü")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
        (f"y{i}", kind, [2, 3]) for i, kind in enumerate(ORDER)
    ]
    assert list(answer.raw_output_contents) == list(request.raw_input_contents)


def test_half_precision_passes_as_it_is(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="halves")
    for i, kind in enumerate(("FP16", "BF16")):
        add_input(request, f"x{i}", kind, (1, 3), bytes(range(i, i + 6)))
    answer = infer(channel, request)
    assert [(output.datatype, list(output.shape)) for output in answer.outputs] == [("FP16", [1, 3]), ("BF16", [1, 3])]
    assert list(answer.raw_output_contents) == list(request.raw_input_contents)
    # Classes of 1, 3 and 2 in the two formats.
    request.raw_input_contents[:] = [np.array([1, 3, 2], np.float16).tobytes(), b"\x80\x3f\x40\x40\0\x40"]
    for name in ("y0", "y1"):
        set_parameters(request.outputs.add(name=name).parameters, {"classification": 2})
    classes = [strings(raw) for raw in infer(channel, request).raw_output_contents]
    assert classes == [["3.000000:1", "2.000000:2"]] * 2


def test_typed_contents_are_answered_raw(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="typed")
    for i, (kind, (field, _, numbers)) in enumerate(TYPED.items()):
        add_input(request, f"x{i}", kind, (1, 3)).contents.CopyFrom(InferTensorContents(**{field: numbers}))
    answer = infer(channel, request)
    for (kind, (_, dtype, numbers)), raw in zip(TYPED.items(), answer.raw_output_contents, strict=True):
        np.testing.assert_array_equal(np.frombuffer(raw, dtype), np.array(numbers, dtype), kind)
    assert not any(output.HasField("contents") for output in answer.outputs)


def test_texts_pass_raw_and_typed(channel: grpc.Channel) -> None:
    texts = [b"a", "zwölf".encode(), b"", b"\0" * 5000]
    raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    request = ModelInferRequest(model_name="texts")
    add_input(request, "x0", "BYTES", (2, 2), raw)
    answer = infer(channel, request)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2, 2])
    assert list(answer.raw_output_contents) == [raw]
    typed = ModelInferRequest(model_name="texts")
    add_input(typed, "x0", "BYTES", (2, 2)).contents.bytes_contents.extend(texts)
    assert list(infer(channel, typed).raw_output_contents) == [raw]


def test_a_graph_reads_and_writes_texts(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="lengths")
    add_input(request, "text", "BYTES", (1, 2)).contents.bytes_contents.extend([b"four", b""])
    lengths, same = infer(channel, request).raw_output_contents
    assert np.frombuffer(lengths, np.int32).tolist() == [4, 0]
    assert strings(same) == ["four", ""]


def test_large_tensors_pass(channel: grpc.Channel) -> None:
    frame = np.random.default_rng(1).integers(0, 256, 3_000_000, np.uint8).tobytes()
    request = ModelInferRequest(model_name="bytes")
    add_input(request, "x0", "UINT8", (1, len(frame)), frame)
    assert infer(channel, request).raw_output_contents[0] == frame


def test_only_the_wanted_outputs_are_sent_in_the_order_asked_for(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="colours")
    add_input(request, "frame", "UINT8", (1, 8, 8, 3), bytes(192))
    for name in ("count", "scores"):
        request.outputs.add(name=name)
    answer = infer(channel, request)
    assert [output.name for output in answer.outputs] == ["count", "scores"]
    assert [len(raw) for raw in answer.raw_output_contents] == [4, 400]


def test_the_version_may_be_named(channel: grpc.Channel) -> None:
    assert infer(channel, echo_infer(model_version="1")).model_version == "1"
    gone = refused(lambda: infer(channel, echo_infer(model_version="7")))
    assert (gone.code, gone.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_READY")


def test_classification_answers_the_best_elements_as_text(channel: grpc.Channel) -> None:
    request = ModelInferRequest(model_name="echo")
    values = np.zeros((2, 64), np.float32)
    values[0, [7, 3]], values[1, 9] = (2.5, 1), np.nan
    add_input(request, "x0", "FP32", (2, 64), values.tobytes())
    set_parameters(request.outputs.add(name="y0").parameters, {"classification": 3})
    answer = infer(channel, request)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [2, 3])
    assert strings(answer.raw_output_contents[0]) == [
        "2.500000:7", "1.000000:3", "0.000000:0", "0.000000:0", "0.000000:1", "0.000000:2",
    ]  # fmt: skip
    request.outputs[0].parameters["classification"].int64_param = 1000
    assert list(infer(channel, request).outputs[0].shape) == [2, 64]


def test_both_protocols_share_batches(node: RunningNode, channel: grpc.Channel) -> None:
    """The batch of a lonely Predict among ModelInfer is larger than itself, and each answer is its own."""
    method = channel.unary_unary(INFER, ModelInferRequest.SerializeToString, ModelInferResponse.FromString)
    requests = []
    for number in range(8):
        requests.append(ModelInferRequest(model_name="batched"))
        add_input(requests[-1], "x0", "FP32", (1, 3), np.full(3, number, np.float32).tobytes())
    largest = 0
    with Client(node.target) as client:
        for _ in range(100):
            calls = [method.future(request, timeout=30) for request in requests]
            answer = client.predict("batched", {"x0": np.full((1, 3), 0.5, np.float32)}, deadline_s=30)
            assert answer["y0"].tolist() == [[0.5] * 3]
            assert [floats(call.result()) for call in calls] == [[number] * 3 for number in range(8)]
            largest = max(largest, answer.batch_size)
            if largest > 1:
                break
    assert largest > 1, "no Predict and ModelInfer shared a batch"


def test_a_timeout_bounds_the_answer(channel: grpc.Channel) -> None:
    request = echo_infer(model="slow")
    request.inputs[0].shape[:] = [1, 4]
    request.raw_input_contents[0] = bytes(16)
    set_parameters(request.parameters, {"timeout": 1})
    late = refused(lambda: infer(channel, request))
    assert (late.code, late.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED")
    set_parameters(request.parameters, {"timeout": 0})
    assert infer(channel, request).outputs[0].name == "y0"


def test_answers_say_where_the_time_went_when_asked_to(channel: grpc.Channel) -> None:
    request = echo_infer()
    assert not infer(channel, request).parameters
    set_parameters(request.parameters, {"starling_timing": True, "timeout": 20_000_000})
    answers = [infer(channel, request), *[one.infer_response for one in stream(channel, iter([request]))]]
    for answer in answers:
        assert floats(answer) == [1.5] * 64
        said = {name: one.int64_param for name, one in answer.parameters.items() if name.endswith(("_us", "_ms"))}
        assert said.keys() == {
            "queue_us", "batch_wait_us", "compute_us", "total_us", "predicted_us", "slack_us", "staleness_ms",
        }  # fmt: skip
        assert said["total_us"] >= said["queue_us"] + said["compute_us"] >= 0
        assert 0 < said["slack_us"] <= 20_000_000 - said["total_us"]
        assert answer.parameters["batch_size"].int64_param == 1
        assert answer.parameters["from_cache"].WhichOneof("parameter_choice") == "bool_param"
    set_parameters(request.parameters, {"starling_timing": 1})
    assert "parameter `starling_timing`" in refused(lambda: infer(channel, request)).text


def test_parameters_that_models_may_have_are_ignored(channel: grpc.Channel) -> None:
    request = echo_infer()
    set_parameters(
        request.parameters, {"temperature": 0.5, "sequence_id": 3, "sequence_start": True, "note": "x" * 999}
    )
    request.parameters["priority"].uint64_param = 1
    set_parameters(request.inputs[0].parameters, {"layout": "NCHW"})
    assert floats(infer(channel, request)) == [1.5] * 64


def test_a_stream_answers_in_order_and_survives_refusals(channel: grpc.Channel) -> None:
    requests = [echo_infer(n, id=str(n), model="echo" if n != 2 else "nobody") for n in range(5)]
    answers = list(stream(channel, iter(requests)))
    assert [answer.infer_response.id for answer in answers] == ["0", "1", "2", "3", "4"]
    assert answers[2].error_message.startswith("model nobody is unknown to node node-1")
    for n in (0, 1, 3, 4):
        assert answers[n].error_message == ""
        assert floats(answers[n].infer_response) == [n] * 64
        assert answers[n].infer_response.parameters["triton_final_response"].bool_param


def test_triton_statuses_are_given_when_asked_for(start_node: StartNode, repository: Path) -> None:
    node = start_node(repository, "--triton-statuses")
    with node.connect() as channel:
        request = echo_infer()
        set_parameters(request.parameters, {"timeout": 1})
        late = refused(lambda: infer(channel, request))
        assert (late.code, late.reason) == (UNAVAILABLE, "DEADLINE_PASSED")
        assert refused(lambda: infer(channel, echo_infer(model_version="7"))).code == UNAVAILABLE
        assert refused(lambda: infer(channel, echo_infer(model="nobody"))).code == grpc.StatusCode.NOT_FOUND
