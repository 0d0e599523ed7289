"""PredictStream: order, refusals between answers, and the ways in which a stream ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictStreamRequest, PredictStreamResponse
from starling.predict.v1.predict_service_pb2_grpc import PredictServiceStub

from tests.support.node import RunningNode
from tests.support.node_calls import PREDICT_STREAM, echo_request, pass_bytes, tensor
from tests.support.waiting import wait_until

_LIMIT_S = 20.0


def open_stream(channel: grpc.Channel, requests: Iterator[PredictRequest], timeout_s: float = _LIMIT_S) -> Any:
    messages = (PredictStreamRequest(request=request) for request in requests)
    return PredictServiceStub(channel).PredictStream(messages, timeout=timeout_s)


def slow_request(request_id: str) -> PredictRequest:
    return PredictRequest(model_name="slow", request_id=request_id, inputs=[tensor("x0", (1, 4))])


def value_of(answer: PredictStreamResponse) -> float:
    return float(np.frombuffer(answer.response.outputs[0].data, np.float32)[0])


def test_answers_come_in_the_order_of_the_requests(channel: grpc.Channel) -> None:
    # A slow request among quick ones: those behind it wait for their turn.
    def requests() -> Iterator[PredictRequest]:
        for number in range(60):
            is_slow = number in (5, 30)
            yield slow_request(str(number)) if is_slow else echo_request(number, request_id=str(number))

    answers = list(open_stream(channel, requests()))
    assert [answer.response.request_id for answer in answers] == [str(number) for number in range(60)]
    assert [value_of(answer) for answer in answers if answer.response.model_name == "echo"] == [
        number for number in range(60) if number not in (5, 30)
    ]


def test_a_refusal_is_one_answer_and_the_stream_goes_on(channel: grpc.Channel) -> None:
    wrong = [
        echo_request(request_id="model", model_name="nobody"),
        echo_request(request_id="shape", inputs=[tensor("x0", (1, 63))]),
        echo_request(request_id="output", output_names=["z"]),
        PredictRequest(),
    ]
    requests = [echo_request(1), *wrong, echo_request(2)]
    answers = list(open_stream(channel, iter(requests)))
    assert [value_of(answers[0]), value_of(answers[-1])] == [1, 2]
    errors = [answer.error for answer in answers[1:-1]]
    assert [(error.code, error.reason, error.request_id) for error in errors] == [
        (5, "MODEL_NOT_FOUND", "model"),
        (3, "INVALID_INPUT", "shape"),
        (3, "INVALID_INPUT", "output"),
        (3, "INVALID_INPUT", ""),
    ]
    assert "wants FP32[?, 64], got FP32[1, 63]" in errors[1].message
    assert not any(error.HasField("retry_delay") for error in errors)
    assert errors[0].facts["model"] == "nobody"
    # Also of what reached no model it says where the time went.
    assert all(error.facts["queue_us"].isdigit() and error.facts["total_us"].isdigit() for error in errors)


def test_a_full_queue_inside_a_stream_carries_the_retry_delay(channel: grpc.Channel) -> None:
    answers = list(open_stream(channel, (slow_request(str(n)) for n in range(12))))
    assert [answer.response.request_id or answer.error.request_id for answer in answers] == [str(n) for n in range(12)]
    full = [answer.error for answer in answers if answer.HasField("error")]
    assert 0 < len(full) < 12
    assert {(error.code, error.reason) for error in full} == {(8, "QUEUE_FULL")}
    assert all(error.retry_delay.ToMicroseconds() >= 1000 for error in full)
    assert all(error.facts["model"] == "slow" and int(error.facts["predicted_us"]) > 0 for error in full)


def test_malformed_messages_inside_a_stream_are_refused_one_by_one(channel: grpc.Channel) -> None:
    good = PredictStreamRequest(request=echo_request(4)).SerializeToString()
    messages = [b"", b"\xff\xff\xff", good[:-3], good + good, good]
    call = channel.stream_stream(PREDICT_STREAM, pass_bytes, pass_bytes)(iter(messages), timeout=_LIMIT_S)
    answers = [PredictStreamResponse.FromString(data) for data in call]
    assert [answer.error.reason for answer in answers[:4]] == ["INVALID_INPUT"] * 4
    assert [answer.error.message for answer in answers[:4:3]] == [
        "malformed PredictRequest: field `request` is missing",
        "malformed PredictRequest: field `request` came twice; send one request a message",
    ]
    assert value_of(answers[4]) == 4


def test_half_closing_at_once_ends_the_stream_without_an_error(channel: grpc.Channel) -> None:
    call = open_stream(channel, iter(()))
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_everything_sent_before_half_closing_is_answered(channel: grpc.Channel) -> None:
    answers = list(open_stream(channel, (echo_request(n) for n in range(200))))
    assert [value_of(answer) for answer in answers] == list(range(200))


def test_a_caller_that_leaves_mid_stream_leaves_nothing_behind(node: RunningNode, channel: grpc.Channel) -> None:
    gone = threading.Event()

    def requests() -> Iterator[PredictRequest]:
        yield echo_request(1)
        for number in range(4):
            yield slow_request(str(number))
        gone.wait(_LIMIT_S)

    call = open_stream(channel, requests())
    assert value_of(next(call)) == 1
    call.cancel()
    gone.set()
    assert call.code() is grpc.StatusCode.CANCELLED
    assert wait_until(lambda: node.count("starling_calls_in_flight") == 0)
    assert node.count("starling_queue_requests") == 0
    assert value_of(next(open_stream(channel, iter([echo_request(2)])))) == 2


def test_the_streams_deadline_bounds_every_request(channel: grpc.Channel) -> None:
    opened = threading.Event()

    def requests() -> Iterator[PredictRequest]:
        yield echo_request(1)
        opened.wait(_LIMIT_S)

    call = open_stream(channel, requests(), timeout_s=0.5)
    assert value_of(next(call)) == 1
    with pytest.raises(grpc.RpcError):
        next(call)
    opened.set()
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_slow_reader_gets_everything(channel: grpc.Channel) -> None:
    # More than fits into any window: the sender is held back, nothing is dropped.
    size = 200_000

    def requests() -> Iterator[PredictRequest]:
        for number in range(60):
            data = bytes([number]) * size
            yield PredictRequest(model_name="bytes", inputs=[tensor("x0", (1, size), 2, data)])

    call = open_stream(channel, requests())
    got = []
    for answer in call:
        got.append(answer.response.outputs[0].data[:1] + answer.response.outputs[0].data[-1:])
        if len(got) == 1:
            threading.Event().wait(0.3)  # the reader does something else meanwhile
    assert got == [bytes([number, number]) for number in range(60)]
