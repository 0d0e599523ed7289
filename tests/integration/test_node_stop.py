"""How a node ends: what it admitted is answered, what comes later is refused, and all that in bounded time."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictStreamRequest
from starling.predict.v1.predict_service_pb2_grpc import PredictServiceStub

from engines import DataType
from services.client import Client, StarlingError
from tests.support.node import RunningNode, StartNode, find_free_port, is_listening
from tests.support.node_calls import PREDICT, raw_method, read_refusal, refused, tensor
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

GRACE_S = 120.0
X = {"x0": np.zeros((1, 4), np.float32)}


@pytest.fixture
def slow_node(start_node: StartNode, tmp_path: Path) -> RunningNode:
    """A node whose only model takes 20 ms a request, and that has far more time to stop than it needs."""
    publish(tmp_path / "models", identity("slow", (DataType.FP32, (4,)), delay_us=20_000))
    return start_node(tmp_path / "models", "--grace-s", str(GRACE_S))


def slow_request(request_id: str = "") -> PredictRequest:
    return PredictRequest(model_name="slow", request_id=request_id, inputs=[tensor("x0", (1, 4))])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_admitted_requests_are_answered_and_new_ones_refused(slow_node: RunningNode, number: signal.Signals) -> None:
    with slow_node.connect() as channel:
        stub = PredictServiceStub(channel)
        admitted = [stub.Predict.future(slow_request(str(n)), timeout=30) for n in range(60)]
        assert wait_until(lambda: slow_node.count("starling_calls_in_flight") + sum(c.done() for c in admitted) >= 60)
        slow_node.process.send_signal(number)
        assert wait_until(lambda: "draining" in slow_node.log)
        predict = raw_method(channel)
        late = refused(lambda: predict(slow_request("late").SerializeToString(), timeout=10))
        with slow_node.connect() as other:
            stranger = refused(lambda: raw_method(other)(slow_request().SerializeToString(), timeout=10))
            list_models = raw_method(other, "/starling.predict.v1.ModelService/ListModels")
            control = refused(lambda: list_models(b"", timeout=10))
        assert [call.result().request_id for call in admitted] == [str(n) for n in range(60)]
    assert (late.code, late.reason, late.retry_s) == (grpc.StatusCode.UNAVAILABLE, "DRAINING", 0.001)
    assert late.text == "node node-1 is draining; send to another node"
    assert {(one.code, one.reason) for one in (stranger, control)} == {(grpc.StatusCode.UNAVAILABLE, "DRAINING")}
    assert slow_node.wait() == 0
    assert "cut off" not in slow_node.log


def test_a_stop_in_the_middle_of_load_loses_nothing(slow_node: RunningNode) -> None:
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def run() -> None:
        with Client(slow_node.target) as client:
            while not stop.is_set():
                try:
                    client.predict("slow", X, deadline_s=20)
                    outcomes["OK"] += 1
                except StarlingError as error:
                    outcomes[error.status] += 1
                    if error.status == "UNAVAILABLE":
                        return

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert wait_until(lambda: outcomes["OK"] >= 20)
    slow_node.terminate()
    started = time.monotonic()
    assert slow_node.wait() == 0
    assert time.monotonic() - started < GRACE_S / 4
    stop.set()
    for thread in threads:
        thread.join(20)
    assert outcomes == {"OK": outcomes["OK"], "UNAVAILABLE": 8}
    assert "cut off" not in slow_node.log


def test_a_stream_gets_the_answers_of_what_it_has_sent_and_then_the_reason(slow_node: RunningNode) -> None:
    done = threading.Event()

    def requests() -> Iterator[PredictStreamRequest]:
        for number in range(8):
            yield PredictStreamRequest(request=slow_request(str(number)))
        done.wait(30)

    with slow_node.connect() as channel:
        call = PredictServiceStub(channel).PredictStream(requests(), timeout=30)
        answers = [next(call)]
        assert wait_until(lambda: slow_node.count("starling_queue_requests") <= 6)
        slow_node.terminate()
        with pytest.raises(grpc.RpcError) as caught:
            answers.extend(call)
        done.set()
    assert [answer.response.request_id for answer in answers] == [str(number) for number in range(8)]
    refusal = read_refusal(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert slow_node.wait() == 0


def test_streams_whose_callers_say_nothing_do_not_hold_it_up(slow_node: RunningNode) -> None:
    quiet = threading.Event()

    def ask() -> Iterator[ServerReflectionRequest]:
        yield ServerReflectionRequest(list_services="")
        quiet.wait(30)

    def say_nothing() -> Iterator[PredictStreamRequest]:
        quiet.wait(30)
        yield from ()

    with slow_node.connect() as channel:
        reflection = ServerReflectionStub(channel).ServerReflectionInfo(ask(), timeout=30)
        assert next(reflection).list_services_response.service
        watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=30)
        assert next(watch).status
        stream = PredictServiceStub(channel).PredictStream(say_nothing(), timeout=30)
        assert wait_until(lambda: slow_node.count("starling_calls_in_flight") == 1)
        started = time.monotonic()
        slow_node.terminate()
        assert slow_node.wait() == 0
        assert time.monotonic() - started < GRACE_S / 4
        quiet.set()
        for call in (stream, reflection, watch):
            with pytest.raises(grpc.RpcError):
                list(call)
        assert stream.code() is grpc.StatusCode.UNAVAILABLE
        assert {reflection.code(), watch.code()} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_what_does_not_fit_into_the_grace_is_cut_off_and_told(start_node: StartNode, tmp_path: Path) -> None:
    publish(tmp_path / "models", identity("slow", (DataType.FP32, (4,)), delay_us=2_000_000))
    node = start_node(tmp_path / "models", "--grace-s", "0.2")
    with node.connect() as channel:
        predict = channel.unary_unary(PREDICT)
        calls = [predict.future(slow_request().SerializeToString(), timeout=30) for _ in range(2)]
        assert wait_until(lambda: node.count("starling_calls_in_flight") == 2)
        node.terminate()
        codes = {call.code() for call in calls}
    assert node.wait() == 1
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}
    assert codes != {grpc.StatusCode.OK}
    assert "2 calls were cut off by the end of the grace" in node.log


def test_a_stop_while_models_load_ends_between_two_of_them(start_node: StartNode, tmp_path: Path) -> None:
    for number in range(6):
        publish(tmp_path / "models", identity(f"slow-{number}", (DataType.FP32, (4,)), delay_us=300_000))
    port = find_free_port()
    node = start_node(tmp_path / "models", ready=False, grpc=f"127.0.0.1:{port}")
    assert wait_until(lambda: is_listening(port))
    assert wait_until(lambda: "slow-0:1 is ready" in node.log)
    node.terminate()
    assert node.wait() == 0
    assert "slow-5:1 is ready" not in node.log


def test_stopping_twice_changes_nothing(slow_node: RunningNode) -> None:
    with slow_node.connect() as channel:
        call = channel.unary_unary(PREDICT).future(slow_request().SerializeToString(), timeout=30)
        assert wait_until(lambda: slow_node.count("starling_calls_in_flight") == 1 or call.done())
        slow_node.terminate()
        slow_node.terminate()
        assert call.code() is grpc.StatusCode.OK
    assert slow_node.wait() == 0
