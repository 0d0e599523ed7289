"""Streams of both clients against a real server: in order, over drains and losses, each request answered once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Protocol

import numpy as np
import pytest
from starling.predict.v1.predict_service_pb2 import (
    PredictError,
    PredictRequest,
    PredictResponse,
    PredictStreamResponse,
)

from services.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    MalformedReply,
    Prediction,
    PredictionError,
    QueueFull,
    Request,
    Unavailable,
)

from .conftest import FakeNode, echo
from .test_client import FRAME, WireError

# gRPC loses events of calls when one loop is closed and the next one begins.
pytestmark = pytest.mark.asyncio(loop_scope="session")

Answers = list[Prediction | PredictionError]


class Collect(Protocol):
    """Sends requests in a stream; returns the answers. With `stays_open` the caller never says that it is done."""

    async def __call__(
        self,
        target: str,
        requests: Iterable[Request],
        *,
        stays_open: bool = False,
        in_flight_max: int = 16,
        deadline_s: float | None = None,
    ) -> Answers: ...


async def collect_blocking(
    target: str,
    requests: Iterable[Request],
    *,
    stays_open: bool = False,
    in_flight_max: int = 16,
    deadline_s: float | None = None,
) -> Answers:
    ended = threading.Event()

    def feed() -> Iterator[Request]:
        yield from requests
        if stays_open:
            ended.wait(60)

    def run() -> Answers:
        with Client(target) as client:
            return list(client.predict_stream(feed(), in_flight_max=in_flight_max, deadline_s=deadline_s))

    try:
        return await asyncio.to_thread(run)
    finally:
        ended.set()


async def collect_async(
    target: str,
    requests: Iterable[Request],
    *,
    stays_open: bool = False,
    in_flight_max: int = 16,
    deadline_s: float | None = None,
) -> Answers:
    async def feed() -> AsyncIterator[Request]:
        for request in requests:
            yield request
        if stays_open:
            await asyncio.Event().wait()

    async with AsyncClient(target) as client:
        answers = client.predict_stream(feed(), in_flight_max=in_flight_max, deadline_s=deadline_s)
        return [answer async for answer in answers]


@pytest.fixture(params=[collect_blocking, collect_async], ids=["blocking", "asyncio"])
def collect(request: pytest.FixtureRequest) -> Collect:
    found: Collect = request.param
    return found


def ask(count: int, sequence_id: str = "") -> Iterator[Request]:
    for sequence in range(count):
        inputs = {"x": np.full((1, 2), sequence)}
        yield Request(model="m", inputs=inputs, sequence=sequence, request_id=str(sequence), sequence_id=sequence_id)


def answer(request: PredictRequest) -> bytes:
    return PredictStreamResponse(response=PredictResponse.FromString(echo(request))).SerializeToString()


async def test_answers_come_in_order(node: FakeNode, collect: Collect) -> None:
    answers = await collect(node.target, ask(50), in_flight_max=4)
    assert [each.request_id for each in answers] == [str(n) for n in range(50)]
    for sequence, each in enumerate(answers):
        assert isinstance(each, Prediction)
        assert np.array_equal(each["x"], np.full((1, 2), sequence))
        assert each.round_trip_us > 0
    assert node.metadata["x-model-name"] == "m"


async def test_an_empty_stream_ends(node: FakeNode, collect: Collect) -> None:
    assert await collect(node.target, ask(0)) == []


async def test_a_refusal_does_not_end_the_stream(node: FakeNode, collect: Collect) -> None:
    def every_other(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        for request in requests:
            reply = PredictStreamResponse.FromString(answer(request))
            if request.sequence % 2:
                reply.error.code = 8
                reply.error.reason = "QUEUE_FULL"
                reply.error.request_id = request.request_id
                reply.error.retry_delay.FromMilliseconds(20)
            yield reply.SerializeToString()

    node.answer_stream = every_other
    answers = await collect(node.target, ask(6))
    assert [type(each) for each in answers] == [Prediction, PredictionError] * 3
    refusal = answers[1]
    assert isinstance(refusal, PredictionError)
    assert (refusal.status, refusal.request_id, refusal.retry_delay_s) == ("RESOURCE_EXHAUSTED", "1", 0.02)
    with pytest.raises(QueueFull):
        raise refusal.to_error()


async def test_no_more_than_the_bound_is_in_flight(node: FakeNode, collect: Collect) -> None:
    made: list[int] = []
    seen: list[int] = []

    def count() -> Iterator[Request]:
        for request in ask(40):
            made.append(request.sequence)
            yield request

    def look(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        for answered, request in enumerate(requests):
            seen.append(len(made) - answered)
            yield answer(request)

    node.answer_stream = look
    assert len(await collect(node.target, count(), in_flight_max=3)) == 40
    assert max(seen) <= 3 + 1 + 1  # on the way, waiting for room, and an answer that has not arrived yet
    with pytest.raises(InvalidInput, match=r"in_flight_max is 0"):
        await collect(node.target, ask(1), in_flight_max=0)
    with pytest.raises(InvalidInput, match=r"deadline_s is 0"):
        await collect(node.target, ask(1), deadline_s=0)


async def test_the_whole_stream_can_end_with_an_error(node: FakeNode, collect: Collect) -> None:
    def give_up(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        yield answer(next(requests))
        raise WireError("RESOURCE_EXHAUSTED", "QUEUE_FULL")

    node.answer_stream = give_up
    with pytest.raises(QueueFull):
        await collect(node.target, ask(1), stays_open=True)


async def test_it_goes_on_after_every_drain_and_each_request_is_answered_once(node: FakeNode, collect: Collect) -> None:
    calls = 0

    def drain(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        nonlocal calls
        calls += 1
        for count, request in enumerate(requests, 1):
            if count == 5:  # read and not answered
                raise WireError("UNAVAILABLE", "DRAINING")
            yield answer(request)

    node.answer_stream = drain
    answers = await collect(node.target, ask(40), in_flight_max=8)
    assert [each.request_id for each in answers] == [str(n) for n in range(40)]
    assert all(isinstance(each, Prediction) for each in answers)
    assert calls >= 10


async def test_requests_that_a_draining_node_refuses_are_sent_to_the_next(node: FakeNode, collect: Collect) -> None:
    calls = 0

    def refuse_all(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        nonlocal calls
        calls += 1
        for request in requests:
            if calls == 1:
                error = PredictError(code=14, reason="DRAINING", message="going", request_id=request.request_id)
                yield PredictStreamResponse(error=error).SerializeToString()
            else:
                yield answer(request)

    node.answer_stream = refuse_all
    answers = await collect(node.target, ask(20), in_flight_max=4)
    assert [type(each) for each in answers] == [Prediction] * 20
    assert calls == 2


async def test_a_drain_without_end_is_an_error(node: FakeNode, collect: Collect) -> None:
    def drain(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        raise WireError("UNAVAILABLE", "DRAINING")
        yield b""

    node.answer_stream = drain
    with pytest.raises((Draining, Unavailable)):
        await collect(node.target, ask(3))


async def test_it_goes_on_after_a_node_is_lost(node: FakeNode, collect: Collect) -> None:
    def die(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        for count, request in enumerate(requests, 1):
            if count == 5:
                raise WireError("UNAVAILABLE", "NO_NODE")
            yield answer(request)

    node.answer_stream = die
    answers = await collect(node.target, ask(20), in_flight_max=8)
    assert [each.request_id for each in answers] == [str(n) for n in range(20)]


async def test_a_step_of_a_sequence_is_not_repeated_after_a_loss(node: FakeNode, collect: Collect) -> None:
    def die(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        yield answer(next(requests))
        next(requests)
        raise WireError("UNAVAILABLE", "NO_NODE")

    node.answer_stream = die
    with pytest.raises(Unavailable):
        await collect(node.target, ask(2, sequence_id="s"))
    assert [request.request_id for request in node.requests] == ["0", "1"]


async def test_nobody_at_the_target_is_an_error_at_once(collect: Collect) -> None:
    with pytest.raises(Unavailable, match=r"cannot reach 127.0.0.1:1"):
        await collect("127.0.0.1:1", ask(3))


async def test_a_peer_that_ends_too_early_is_malformed(node: FakeNode, collect: Collect) -> None:
    def forget(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        next(requests)
        yield from ()

    node.answer_stream = forget
    with pytest.raises(MalformedReply, match=r"ended with 1 requests unanswered"):
        await collect(node.target, ask(1), stays_open=True)


async def test_a_peer_that_ends_while_we_write_is_never_a_bug_of_ours(node: FakeNode, collect: Collect) -> None:
    node.answer_stream = lambda requests: iter(())
    for _ in range(5):  # a race: which of the two it is depends on what arrives first
        with pytest.raises((MalformedReply, Unavailable), match=r"ended"):
            await collect(node.target, ask(100))


async def test_an_answer_to_no_request_is_malformed(node: FakeNode, collect: Collect) -> None:
    def answer_twice(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        reply = answer(next(requests))
        yield from (reply, reply)
        yield from (answer(request) for request in requests)  # until the caller has had enough

    node.answer_stream = answer_twice
    with pytest.raises(MalformedReply, match=r"answer to no request"):
        await collect(node.target, ask(1), stays_open=True)


async def test_a_request_that_cannot_be_sent_ends_the_stream_with_its_error(node: FakeNode, collect: Collect) -> None:
    def spoil() -> Iterator[Request]:
        yield Request(model="m", inputs={"x": FRAME})
        yield Request(model="m", inputs={"x": FRAME.astype("c8")})

    def fail() -> Iterator[Request]:
        yield Request(model="m", inputs={"x": FRAME})
        raise LookupError("no camera")

    with pytest.raises(InvalidInput, match=r"dtype complex64"):
        await collect(node.target, spoil())
    with pytest.raises(LookupError, match="no camera"):
        await collect(node.target, fail())


async def test_it_has_a_deadline_if_it_is_given_one(node: FakeNode, collect: Collect) -> None:
    with pytest.raises(DeadlineExceeded):
        await collect(node.target, ask(1), stays_open=True, deadline_s=0.1)
    with pytest.raises(DeadlineExceeded):
        await collect(node.target, ask(0), stays_open=True, deadline_s=0.1)
