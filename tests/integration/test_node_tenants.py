"""Whose turn it is: tenants share an engine and a queue, classes do not, and a stream keeps its newest frame.

Model `slow` runs one request in 200 ms and lets twelve wait.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import pytest
from starling.predict.v1.predict_service_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
)
from starling.predict.v1.predict_service_pb2_grpc import PredictServiceStub

from engines import DataType
from tests.support.node import RunningNode, running_node
from tests.support.node_calls import read_refusal, tensor
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

RUN_S = 0.2
QUEUE_MAX = 12
_LIMIT_S = 20.0

Call: TypeAlias = "grpc.Future[PredictResponse]"  # a type only: grpc has no such class at run time


class Ends:
    """The request ids in the order in which their answers came."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._lock = threading.Lock()

    def watch(self, call: Call) -> Call:
        """Adds the id of a call when it is answered."""

        def add(done: Call) -> None:
            if done.exception() is None:
                with self._lock:
                    self.ids.append(done.result().request_id)

        call.add_done_callback(add)
        return call


def build(request_id: str, **fields: Any) -> PredictRequest:
    return PredictRequest(model_name="slow", request_id=request_id, inputs=[tensor("x0", (1, 4))], **fields)


def send(
    channel: grpc.Channel, request_id: str, *, tenant: str = "", timeout_s: float = _LIMIT_S, **fields: Any
) -> Call:
    """Sends a request to `slow` for a tenant and does not wait for the answer."""
    metadata = (("x-tenant", tenant),) if tenant else ()
    return PredictServiceStub(channel).Predict.future(build(request_id, **fields), timeout=timeout_s, metadata=metadata)


def queued(node: RunningNode) -> float:
    return node.count("starling_queue_requests", model="slow")


@contextmanager
def busy(node: RunningNode, channel: grpc.Channel) -> Iterator[None]:
    """Keeps the engine busy with one run while the test fills the queue behind it."""
    call = send(channel, "first", tenant="nobody")
    assert wait_until(lambda: node.count("starling_calls_in_flight") == 1 and queued(node) == 0)
    yield
    call.result()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose only model is slow enough to look at."""
    root = tmp_path_factory.mktemp("tenants")
    config = identity(
        "slow",
        (DataType.FP32, (4,)),
        delay_us=round(RUN_S * 1e6),
        queue_max=QUEUE_MAX,
        default_timeout_us=round(_LIMIT_S * 1e6),
    )
    publish(root / "models", config)
    with running_node(root, root / "models") as node:
        yield node


@pytest.fixture(autouse=True)
def nothing_is_left(node: RunningNode) -> Iterator[None]:
    """Holds in every test: no call is forgotten and nothing expired was run."""
    yield
    assert wait_until(lambda: node.count("starling_calls_in_flight") == 0)
    assert node.count("starling_expired_executed_total") == 0


def test_a_quiet_tenant_does_not_wait_behind_a_chatty_ones_backlog(node: RunningNode, channel: grpc.Channel) -> None:
    ends = Ends()
    with busy(node, channel):
        calls = [ends.watch(send(channel, f"chatty-{n}", tenant="chatty")) for n in range(10)]
        assert wait_until(lambda: queued(node) == 10)
        # Its deadline is the latest of all: by deadlines alone it would be the last.
        calls.append(ends.watch(send(channel, "quiet", tenant="quiet", timeout_s=2 * _LIMIT_S)))
        answers = [call.result() for call in calls]
    assert wait_until(lambda: len(ends.ids) == 11)
    assert ends.ids.index("quiet") <= 2
    assert answers[-1].timing.queue_us < 4 * RUN_S * 1e6
    assert answers[-1].timing.predicted_us < 5 * RUN_S * 1e6


def test_without_a_tenant_everybody_shares_one_place(node: RunningNode, channel: grpc.Channel) -> None:
    ends = Ends()
    with busy(node, channel):
        calls = [ends.watch(send(channel, str(n), timeout_s=5 + n)) for n in range(4)]
        assert wait_until(lambda: queued(node) == 4)
        for call in calls:
            call.result()
    assert wait_until(lambda: len(ends.ids) == 4)
    assert ends.ids == ["0", "1", "2", "3"]


def test_the_urgent_class_goes_before_every_tenant(node: RunningNode, channel: grpc.Channel) -> None:
    ends = Ends()
    with busy(node, channel):
        calls = [ends.watch(send(channel, f"normal-{n}", tenant=f"tenant-{n}", timeout_s=5)) for n in range(4)]
        assert wait_until(lambda: queued(node) == 4)
        calls.append(ends.watch(send(channel, "urgent", tenant="late", priority=3)))
        for call in calls:
            call.result()
    assert wait_until(lambda: len(ends.ids) == 5)
    assert ends.ids[0] == "urgent"


def test_a_full_queue_makes_room_for_a_tenant_that_takes_less(node: RunningNode, channel: grpc.Channel) -> None:
    with busy(node, channel):
        calls = [send(channel, f"chatty-{n}", tenant="chatty", timeout_s=5 + n) for n in range(QUEUE_MAX)]
        assert wait_until(lambda: queued(node) == QUEUE_MAX)
        again = read_refusal(send(channel, "one-too-many", tenant="chatty").exception())
        assert again.reason == "QUEUE_FULL"
        quiet = send(channel, "quiet", tenant="quiet")
        # The most patient one gives up its place, and is told so like any other that finds the queue full.
        displaced = read_refusal(calls.pop().exception())
        assert (displaced.code, displaced.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert displaced.facts["request_id"] == f"chatty-{QUEUE_MAX - 1}"
        assert displaced.retry_s is not None
        assert quiet.result().request_id == "quiet"
        assert [call.result().request_id for call in calls] == [f"chatty-{n}" for n in range(QUEUE_MAX - 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "cam"), ("b", "cam")),
        (("a/b", "c"), ("a", "b/c")),
        (("a", "cam"), ("", "a/cam")),
    ],
)
def test_streams_of_two_tenants_do_not_collide(
    node: RunningNode, channel: grpc.Channel, one: tuple[str, str], other: tuple[str, str]
) -> None:
    with busy(node, channel):
        calls = [
            send(channel, tenant, tenant=tenant, stream_id=stream, sequence=sequence)
            for sequence, (tenant, stream) in enumerate((one, other))
        ]
        assert wait_until(lambda: queued(node) == 2)
        assert [call.result().request_id for call in calls] == [one[0], other[0]]


def test_frames_of_one_tenant_supersede_each_other(node: RunningNode, channel: grpc.Channel) -> None:
    with busy(node, channel):
        old = send(channel, "old", tenant="a", stream_id="cam", sequence=1)
        assert wait_until(lambda: queued(node) == 1)
        new = send(channel, "new", tenant="a", stream_id="cam", sequence=2)
        refusal = read_refusal(old.exception())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "SUPERSEDED")
        assert 'a newer frame of stream "cam" took the place of sequence 1' in refusal.text
        assert new.result().request_id == "new"


def test_superseded_frames_of_a_stream_are_answered_in_their_place(node: RunningNode, channel: grpc.Channel) -> None:
    last_may_go = threading.Event()

    def frames() -> Iterator[PredictStreamRequest]:
        for sequence in range(5):
            yield PredictStreamRequest(request=build(str(sequence), stream_id="cam", sequence=sequence))
        last_may_go.wait(_LIMIT_S)
        yield PredictStreamRequest(request=build("5", stream_id="cam", sequence=5))

    with busy(node, channel):
        stub: Any = PredictServiceStub(channel)
        call = stub.PredictStream(frames(), timeout=_LIMIT_S, metadata=(("x-tenant", "a"),))
        answers: list[PredictStreamResponse] = [next(call) for _ in range(5)]
        last_may_go.set()
        answers += list(call)
    assert [answer.error.request_id or answer.response.request_id for answer in answers] == [str(n) for n in range(6)]
    # Only the newest of those that waited was computed; one that comes when nothing waits is computed, too.
    assert [answer.error.reason for answer in answers] == ["SUPERSEDED"] * 4 + ["", ""]
    assert {answer.error.code for answer in answers[:4]} == {grpc.StatusCode.ABORTED.value[0]}
    assert not any(answer.error.HasField("retry_delay") for answer in answers)
