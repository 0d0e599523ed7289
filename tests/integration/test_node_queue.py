"""What waits, what is refused, and what nobody waits for any more.

Model `slow` runs one request in 400 ms and lets four wait.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from starling.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from starling.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse, PredictStreamRequest
from starling.predict.v1.predict_service_pb2_grpc import PredictServiceStub

from engines import DataType
from services.client import Client, ResourceExhausted, RetryPolicy
from tests.support.infer_calls import add_input, set_parameters
from tests.support.node import RunningNode, running_node
from tests.support.node_calls import PREDICT, read_refusal, tensor
from tests.support.node_models import identity, publish
from tests.support.raw_call import open_calls
from tests.support.waiting import wait_until

RUN_S = 0.4
QUEUE_MAX = 4
HASTY_S = 20.0
X = {"x0": np.zeros((1, 4), np.float32)}


def send(
    channel: grpc.Channel, request_id: str = "", timeout_s: float = 10.0, **fields: Any
) -> grpc.Future[PredictResponse]:
    """Sends a request to `slow` and does not wait for the answer."""
    request = PredictRequest(model_name="slow", request_id=request_id, inputs=[tensor("x0", (1, 4))], **fields)
    return PredictServiceStub(channel).Predict.future(request, timeout=timeout_s)


def send_infer(channel: grpc.Channel, timeout_s: float = 10.0, **parameters: int) -> grpc.Future[ModelInferResponse]:
    """Sends the same by the Open Inference Protocol."""
    request = ModelInferRequest(model_name="slow")
    add_input(request, "x0", "FP32", (1, 4), bytes(16))
    set_parameters(request.parameters, parameters)
    return GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=timeout_s)


@contextmanager
def busy(
    node: RunningNode, channel: grpc.Channel, waiting: int, **fields: Any
) -> Iterator[list[grpc.Future[PredictResponse]]]:
    """Keeps the engine busy with `waiting` requests behind it; all of them are answered in the end."""
    calls = [send(channel, "first")]
    assert wait_until(
        lambda: node.count("starling_calls_in_flight") == 1 and node.count("starling_queue_requests") == 0
    )
    calls += [send(channel, f"waiting-{number}", **fields) for number in range(waiting)]
    assert wait_until(lambda: node.count("starling_queue_requests", model="slow") == waiting)
    yield calls
    assert [call.result().request_id for call in calls] == ["first", *(f"waiting-{n}" for n in range(waiting))]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a model that is slow enough to look at, and one that has a deadline for all who give none."""
    root = tmp_path_factory.mktemp("slow")
    config = identity("slow", (DataType.FP32, (4,)), delay_us=round(RUN_S * 1e6), queue_max=QUEUE_MAX)
    publish(root / "models", config)
    publish(root / "models", identity("hasty", (DataType.FP32, (4,)), default_timeout_us=round(HASTY_S * 1e6)))
    with running_node(root, root / "models") as node:
        yield node


@pytest.fixture(autouse=True)
def nothing_late_is_executed(node: RunningNode) -> Iterator[None]:
    """Holds in every test: no engine runs what is past its deadline, and no call is forgotten."""
    yield
    assert wait_until(lambda: node.count("starling_calls_in_flight") == 0)
    assert node.count("starling_expired_executed_total") == 0


def executions(node: RunningNode) -> float:
    return node.count("starling_executions_total", model="slow")


def test_a_deadline_shorter_than_the_queue_is_refused_at_once_and_not_computed(
    node: RunningNode, channel: grpc.Channel, client: Client
) -> None:
    before = executions(node)
    with busy(node, channel, 2), pytest.raises(ResourceExhausted) as caught:
        client.predict("slow", X, deadline_s=RUN_S)
    # The node's own words, so before the deadline: the client would have spoken of that.
    assert caught.value.reason == "DEADLINE_UNMEETABLE"
    assert int(caught.value.metadata["predicted_us"]) > int(caught.value.metadata["left_us"])
    # gRPC rounds the time that it tells the node up.
    assert int(caught.value.metadata["left_us"]) < RUN_S * 1.05e6
    assert caught.value.retry_delay_s is not None
    assert executions(node) - before == 3


def test_a_budget_shorter_than_a_run_is_refused_with_the_time_it_would_take(
    node: RunningNode, channel: grpc.Channel, client: Client
) -> None:
    before = executions(node)
    with busy(node, channel, 0), pytest.raises(ResourceExhausted) as caught:
        client.predict("slow", X, deadline_s=10, budget_s=0.01, request_id="late")
    assert caught.value.reason == "DEADLINE_UNMEETABLE"
    assert "slow:1: an answer is predicted in" in str(caught.value)
    assert 0 < int(caught.value.metadata["left_us"]) <= 10_000
    assert caught.value.metadata["request_id"] == "late"
    assert executions(node) - before == 1


LONG_S, SHORT_S = 20.0, 1.2
ASKED: dict[str, Callable[[grpc.Channel], grpc.Future[Any]]] = {
    "the call's deadline": lambda to: send(to, timeout_s=SHORT_S, budget=Duration(seconds=int(LONG_S))),
    "the budget": lambda to: send(to, timeout_s=LONG_S, budget=Duration(nanos=200_000_000, seconds=1)),
    "the call's deadline, by ModelInfer": lambda to: send_infer(to, SHORT_S, timeout=int(LONG_S * 1e6)),
    "the parameter `timeout`": lambda to: send_infer(to, LONG_S, timeout=int(SHORT_S * 1e6)),
}


@pytest.mark.parametrize("which", ASKED)
def test_the_earliest_of_all_deadlines_counts(node: RunningNode, channel: grpc.Channel, which: str) -> None:
    with busy(node, channel, QUEUE_MAX - 1, priority=3):
        refusal = read_refusal(ASKED[which](channel).exception())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_UNMEETABLE")
    assert refusal.retry_s is not None
    # gRPC rounds the time that it tells the node up.
    assert 0 < int(refusal.facts["left_us"]) < SHORT_S * 1.05e6 < int(refusal.facts["predicted_us"])


def test_without_a_deadline_the_models_own_counts(node: RunningNode, channel: grpc.Channel) -> None:
    answers = {}
    for model in ("slow", "hasty"):
        request = PredictRequest(model_name=model, inputs=[tensor("x0", (1, 4))])
        answers[model] = PredictServiceStub(channel).Predict(request).timing
    allowed_s = {model: (timing.total_us + timing.slack_us) / 1e6 for model, timing in answers.items()}
    assert allowed_s["hasty"] == pytest.approx(HASTY_S, abs=0.001)
    assert allowed_s["slow"] == pytest.approx(30, abs=0.001)


def test_a_newer_frame_takes_the_place_of_the_one_that_waits(node: RunningNode, channel: grpc.Channel) -> None:
    before = node.count("starling_requests_total", model="slow", reason="SUPERSEDED")
    with busy(node, channel, 0):
        old = send(channel, "old", stream_id="cam", sequence=1)
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") == 1)
        new = send(channel, "new", stream_id="cam", sequence=2)
        refusal = read_refusal(old.exception())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")
        assert int(refusal.facts["total_us"]) >= int(refusal.facts["queue_us"]) > 0
        assert int(refusal.facts["predicted_us"]) > 0
        stale = read_refusal(send(channel, "stale", stream_id="cam", sequence=0).exception())
        assert stale.reason == "SUPERSEDED"
        assert new.result().request_id == "new"
        assert new.result().timing.predicted_us > 0
    assert node.count("starling_requests_total", model="slow", reason="SUPERSEDED") - before == 2


def test_a_budget_that_suffices_changes_nothing(client: Client) -> None:
    assert client.predict("slow", X, deadline_s=10, budget_s=5).model == "slow"
    # More time than a clock can count in microseconds is no bound either.
    assert client.predict("slow", X, deadline_s=10, budget_s=300e9).model == "slow"


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(node: RunningNode, channel: grpc.Channel) -> None:
    with busy(node, channel, QUEUE_MAX):
        started = time.monotonic()
        refusal = read_refusal(send(channel, "one-too-many").exception())
        assert time.monotonic() - started < RUN_S * QUEUE_MAX
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refusal.text.startswith("slow:1: the queue is full: 4 requests and 64 bytes wait, at most 4 and")
    assert refusal.facts.keys() == {
        "model", "queued", "request_id", "predicted_us", "left_us", "queue_us", "total_us",
    }  # fmt: skip
    assert refusal.facts["queued"] == "4"
    # Four runs wait; the estimate is measured, so only its size is certain.
    assert refusal.retry_s is not None
    assert 0.1 < refusal.retry_s < 4


def test_a_client_that_comes_back_as_told_is_answered(node: RunningNode, channel: grpc.Channel) -> None:
    refusals = node.count("starling_requests_total", reason="QUEUE_FULL")
    with busy(node, channel, QUEUE_MAX), Client(node.target, retry=RetryPolicy(attempts_max=10)) as client:
        assert client.predict("slow", X, deadline_s=10).node == "node-1"
    # A few tries, not one every moment: the node said when a place is free.
    assert 1 <= node.count("starling_requests_total", reason="QUEUE_FULL") - refusals <= 3


def test_the_more_urgent_class_runs_first_then_the_earlier_deadline(node: RunningNode, channel: grpc.Channel) -> None:
    order: list[str] = []
    with busy(node, channel, 0):
        calls = []
        for name, priority, timeout_s in (("later", 0, 9.0), ("sooner", 0, 8.0), ("urgent", 3, 10.0)):
            call = send(channel, name, timeout_s, priority=priority)
            call.add_done_callback(lambda done: order.append(done.result().request_id))
            calls.append(call)
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") == 3)
        answers = [call.result() for call in calls]
    assert wait_until(lambda: len(order) == 3)
    assert order == ["urgent", "sooner", "later"]
    waited = [answer.timing.queue_us for answer in answers]
    assert waited[2] < waited[1] < waited[0]


@pytest.mark.parametrize("ask", [send, send_infer], ids=["Predict", "ModelInfer"])
def test_a_cancelled_request_gives_up_its_place_and_is_not_computed(
    node: RunningNode, channel: grpc.Channel, ask: Callable[[grpc.Channel], grpc.Future[Any]]
) -> None:
    before, cancelled = executions(node), node.count("starling_requests_total", model="slow", reason="CANCELLED")
    with busy(node, channel, QUEUE_MAX - 1):
        call = ask(channel)
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") == QUEUE_MAX)
        call.cancel()
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") < QUEUE_MAX)
        assert call.code() is grpc.StatusCode.CANCELLED
    assert executions(node) - before == QUEUE_MAX
    assert node.count("starling_requests_total", model="slow", reason="CANCELLED") - cancelled == 1


def test_a_stream_that_is_cancelled_gives_up_its_places(node: RunningNode, channel: grpc.Channel) -> None:
    before, gone = executions(node), threading.Event()

    def requests() -> Iterator[PredictStreamRequest]:
        request = PredictRequest(model_name="slow", inputs=[tensor("x0", (1, 4))])
        yield from [PredictStreamRequest(request=request)] * 3
        gone.wait(60)

    with busy(node, channel, 1):
        call = PredictServiceStub(channel).PredictStream(requests(), timeout=60)
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") >= 3)
        call.cancel()
        gone.set()
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") <= 1)
    assert executions(node) - before == 2


def test_a_client_that_dies_takes_its_requests_with_it(node: RunningNode, channel: grpc.Channel) -> None:
    before = executions(node)
    with busy(node, channel, 1):
        with node.connect() as other:
            calls = [send(other) for _ in range(3)]
            assert wait_until(lambda: node.count("starling_queue_requests", model="slow") >= 3)
        assert all(call.code() is grpc.StatusCode.CANCELLED for call in calls)
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") <= 1)
    assert executions(node) - before == 2


def test_a_client_that_vanishes_takes_its_requests_with_it(node: RunningNode, channel: grpc.Channel) -> None:
    before = executions(node)
    message = PredictRequest(model_name="slow", inputs=[tensor("x0", (1, 4))]).SerializeToString()
    with busy(node, channel, 1):
        with open_calls(node.target, PREDICT, [message] * 3) as connection:
            assert wait_until(lambda: node.count("starling_queue_requests", model="slow") >= 3)
            # Its process was killed, its machine fell: the connection is reset without a word of HTTP/2.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert wait_until(lambda: node.count("starling_queue_requests", model="slow") <= 1)
    assert executions(node) - before == 2
