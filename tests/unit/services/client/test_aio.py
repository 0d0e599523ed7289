"""The asyncio client against a real server: calls, cancellation, and streams in order."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

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
    Cancelled,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    MalformedReply,
    Prediction,
    PredictionError,
    QueueFull,
    Request,
    RetryPolicy,
    Unavailable,
)

from .conftest import FakeNode, Serve, echo, wait_for
from .test_client import FRAME, Models, WireError, refuse


async def ask(count: int, *, pause: asyncio.Event | None = None) -> AsyncIterator[Request]:
    for sequence in range(count):
        yield Request(model="m", inputs={"x": np.full((1, 2), sequence)}, sequence=sequence, request_id=str(sequence))
    if pause is not None:
        await pause.wait()


async def test_arrays_go_in_and_come_out(node: FakeNode) -> None:
    async with AsyncClient(node.target, agent_id="drone-7") as client:
        await client.wait_until_connected()
        prediction = await client.predict("m", {"x": FRAME}, request_id="r", budget_s=0.5)
        many = await asyncio.gather(*(client.predict("m", {"x": FRAME + n}) for n in range(8)))
    assert np.array_equal(prediction["x"], FRAME)
    assert (prediction.node, prediction.request_id) == ("edge-0", "r")
    assert all(np.array_equal(each["x"], FRAME + n) for n, each in enumerate(many))
    assert node.metadata["x-agent-id"] == "drone-7"


async def test_errors_are_those_of_the_blocking_client(node: FakeNode) -> None:
    node.answer = lambda _: refuse("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.25)
    async with AsyncClient(node.target) as client:
        with pytest.raises(QueueFull) as caught:
            await client.predict("m", {"x": FRAME})
        with pytest.raises(InvalidInput, match=r"deadline_s"):
            await client.predict("m", {"x": FRAME}, deadline_s=0)
    assert (caught.value.retry_delay_s, caught.value.reason) == (0.25, "QUEUE_FULL")


async def test_no_answer_in_time(node: FakeNode) -> None:
    release = threading.Event()
    node.answer = lambda request: echo(request) if release.wait(5) else b""
    async with AsyncClient(node.target) as client:
        with pytest.raises(DeadlineExceeded, match=r"no answer from .* within 0.05 s"):
            await client.predict("m", {"x": FRAME}, deadline_s=0.05)
    release.set()


async def test_a_cancelled_task_stays_cancelled(node: FakeNode) -> None:
    release = threading.Event()
    node.answer = lambda request: echo(request) if release.wait(5) else b""
    async with AsyncClient(node.target) as client:
        task = asyncio.create_task(client.predict("m", {"x": FRAME}, deadline_s=20))
        await asyncio.to_thread(wait_for, lambda: bool(node.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.predict("m", {"x": FRAME}, deadline_s=20)
    release.set()


async def test_closing_the_client_ends_its_calls(node: FakeNode) -> None:
    release = threading.Event()
    node.answer = lambda request: echo(request) if release.wait(5) else b""
    client = AsyncClient(node.target)
    task = asyncio.create_task(client.predict("m", {"x": FRAME}, deadline_s=20))
    await asyncio.to_thread(wait_for, lambda: bool(node.requests))
    await client.close()
    with pytest.raises(Cancelled, match=r"was closed during the call"):
        await task
    with pytest.raises(Unavailable, match=r"is closed"):
        await client.predict("m", {"x": FRAME})
    release.set()


async def test_a_policy_tries_again(node: FakeNode) -> None:
    def full_once(request: PredictRequest) -> bytes:
        return refuse("UNAVAILABLE", "DRAINING") if len(node.requests) == 1 else echo(request)

    node.answer = full_once
    async with AsyncClient(node.target, retry=RetryPolicy(backoff_s=0.001)) as client:
        await client.predict("m", {"x": FRAME}, deadline_s=10)
    assert len(node.requests) == 2


async def test_nobody_at_the_target_is_unavailable() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match=r"cannot reach 127.0.0.1:1"):
            await client.predict("m", {"x": FRAME}, deadline_s=20)
        with pytest.raises(Unavailable, match=r"check that it is up"):
            await client.wait_until_connected(deadline_s=0.05)


async def test_models_are_values(serve: Serve) -> None:
    async with AsyncClient(serve(Models()).target) as client:
        nanodet, raptor = await client.models()
        assert await client.model("nanodet") == await client.load("nanodet") == nanodet
        assert await client.unload("nanodet") == (nanodet,)
        assert raptor.name == "raptor"
        assert repr(client).startswith("<AsyncClient 127.0.0.1:")


async def test_a_stream_answers_in_order(node: FakeNode) -> None:
    async with AsyncClient(node.target) as client:
        answers = [answer async for answer in client.predict_stream(ask(50), in_flight_max=4)]
    assert [answer.request_id for answer in answers] == [str(n) for n in range(50)]
    for sequence, answer in enumerate(answers):
        assert isinstance(answer, Prediction)
        assert np.array_equal(answer["x"], np.full((1, 2), sequence))
        assert answer.round_trip_us > 0


async def test_an_empty_stream_ends(node: FakeNode) -> None:
    async with AsyncClient(node.target) as client:
        assert [answer async for answer in client.predict_stream(ask(0))] == []


async def test_a_refusal_does_not_end_the_stream(node: FakeNode) -> None:
    def every_other(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        for request in requests:
            reply = PredictStreamResponse(response=PredictResponse.FromString(echo(request)))
            if request.sequence % 2:
                reply.error.code = 8
                reply.error.reason = "QUEUE_FULL"
                reply.error.request_id = request.request_id
                reply.error.retry_delay.FromMilliseconds(20)
            yield reply.SerializeToString()

    node.answer_stream = every_other
    async with AsyncClient(node.target) as client:
        answers = [answer async for answer in client.predict_stream(ask(6))]
    assert [type(answer) for answer in answers] == [Prediction, PredictionError] * 3
    refusal = answers[1]
    assert isinstance(refusal, PredictionError)
    assert (refusal.status, refusal.request_id, refusal.retry_delay_s) == ("RESOURCE_EXHAUSTED", "1", 0.02)
    with pytest.raises(QueueFull):
        raise refusal.to_error()


async def test_no_more_than_the_bound_is_in_flight(node: FakeNode) -> None:
    release = threading.Event()

    def hold(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        first = next(requests)
        release.wait(5)
        yield PredictStreamResponse(response=PredictResponse.FromString(echo(first))).SerializeToString()

    made = 0

    async def count() -> AsyncIterator[Request]:
        nonlocal made
        async for request in ask(100):
            made += 1
            yield request

    node.answer_stream = hold
    async with AsyncClient(node.target) as client:
        async with aclosing(client.predict_stream(count(), in_flight_max=3)) as answers:
            first = asyncio.ensure_future(anext(answers))
            await asyncio.sleep(0.1)
            assert made == 4  # three on the way, one waiting for room
            release.set()
            await first
        with pytest.raises(InvalidInput, match=r"in_flight_max is 0"):
            await anext(client.predict_stream(ask(1), in_flight_max=0))


async def test_the_whole_stream_can_end_with_an_error(node: FakeNode) -> None:
    def drain(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        yield PredictStreamResponse(response=PredictResponse.FromString(echo(next(requests)))).SerializeToString()
        raise WireError("RESOURCE_EXHAUSTED", "QUEUE_FULL")

    node.answer_stream = drain
    requests = ask(1, pause=asyncio.Event())
    async with AsyncClient(node.target) as client, aclosing(client.predict_stream(requests)) as answers:
        assert isinstance(await anext(answers), Prediction)
        with pytest.raises(QueueFull):
            await anext(answers)


async def test_a_stream_goes_on_after_every_drain_and_answers_each_request_once(node: FakeNode) -> None:
    calls = 0

    def drain(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        nonlocal calls
        calls += 1
        for count, request in enumerate(requests, 1):
            if count == 5:  # read and not answered
                raise WireError("UNAVAILABLE", "DRAINING")
            yield PredictStreamResponse(response=PredictResponse.FromString(echo(request))).SerializeToString()

    node.answer_stream = drain
    async with AsyncClient(node.target) as client:
        answers = [answer async for answer in client.predict_stream(ask(40), in_flight_max=8)]
    assert [answer.request_id for answer in answers] == [request.request_id async for request in ask(40)]
    assert all(isinstance(answer, Prediction) for answer in answers)
    assert calls >= 10


async def test_requests_that_a_draining_node_refuses_are_sent_to_the_next(node: FakeNode) -> None:
    calls = 0

    def refuse_all(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        nonlocal calls
        calls += 1
        for request in requests:
            if calls == 1:
                error = PredictError(code=14, reason="DRAINING", message="going", request_id=request.request_id)
                yield PredictStreamResponse(error=error).SerializeToString()
            else:
                yield PredictStreamResponse(response=PredictResponse.FromString(echo(request))).SerializeToString()

    node.answer_stream = refuse_all
    async with AsyncClient(node.target) as client:
        answers = [answer async for answer in client.predict_stream(ask(20), in_flight_max=4)]
    assert [type(answer) for answer in answers] == [Prediction] * 20
    assert calls == 2


async def test_a_drain_without_end_is_an_error(node: FakeNode) -> None:
    def drain(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        raise WireError("UNAVAILABLE", "DRAINING")
        yield b""

    node.answer_stream = drain
    async with AsyncClient(node.target) as client:
        with pytest.raises((Draining, Unavailable)):
            async for _ in client.predict_stream(ask(3)):
                pass


async def test_a_peer_that_ends_too_early_is_malformed(node: FakeNode) -> None:
    def forget(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
        next(requests)
        yield from ()

    node.answer_stream = forget
    async with AsyncClient(node.target) as client:
        with pytest.raises(MalformedReply, match=r"ended with 1 requests unanswered"):
            async for _ in client.predict_stream(ask(1, pause=asyncio.Event())):
                pass


async def test_a_peer_that_ends_while_we_write_is_never_a_bug_of_ours(node: FakeNode) -> None:
    node.answer_stream = lambda requests: iter(())
    async with AsyncClient(node.target) as client:
        for _ in range(5):  # a race: which of the two it is depends on what arrives first
            with pytest.raises((MalformedReply, Unavailable), match=r"ended"):
                async for _ in client.predict_stream(ask(100)):
                    pass


async def test_an_answer_to_no_request_is_malformed(node: FakeNode) -> None:
    answer = PredictStreamResponse(response=PredictResponse()).SerializeToString()
    node.answer_stream = lambda requests: iter([answer, answer])
    async with AsyncClient(node.target) as client:
        with pytest.raises(MalformedReply, match=r"answer to no request"):
            async for _ in client.predict_stream(ask(1, pause=asyncio.Event())):
                pass


async def test_a_request_that_cannot_be_sent_ends_the_stream_with_its_error(node: FakeNode) -> None:
    async def spoil() -> AsyncIterator[Request]:
        yield Request(model="m", inputs={"x": FRAME})
        yield Request(model="m", inputs={"x": FRAME.astype("c8")})

    async def fail() -> AsyncIterator[Request]:
        yield Request(model="m", inputs={"x": FRAME})
        raise LookupError("no camera")

    async with AsyncClient(node.target) as client:
        with pytest.raises(InvalidInput, match=r"dtype complex64"):
            async for _ in client.predict_stream(spoil()):
                pass
        with pytest.raises(LookupError, match="no camera"):
            async for _ in client.predict_stream(fail()):
                pass


async def test_leaving_a_stream_early_cancels_it(node: FakeNode) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[Request]:
        try:
            async for request in ask(1, pause=asyncio.Event()):
                yield request
        finally:
            closed.set()

    async with AsyncClient(node.target) as client:
        async with aclosing(client.predict_stream(endless())) as answers:
            await anext(answers)
        assert closed.is_set()
        assert await asyncio.to_thread(node.cancelled.wait, 5)


async def test_a_cancelled_task_ends_its_stream(node: FakeNode) -> None:
    started = asyncio.Event()

    async def run() -> None:
        async with aclosing(client.predict_stream(ask(1, pause=asyncio.Event()))) as answers:
            async for _ in answers:
                started.set()

    async with AsyncClient(node.target) as client:
        task = asyncio.create_task(run())
        await asyncio.wait_for(started.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(node.cancelled.wait, 5)


async def test_closing_the_client_ends_its_streams(node: FakeNode) -> None:
    started = asyncio.Event()
    client = AsyncClient(node.target)

    async def run() -> None:
        async for _ in client.predict_stream(ask(1, pause=asyncio.Event())):
            started.set()

    task = asyncio.create_task(run())
    await asyncio.wait_for(started.wait(), 5)
    await client.close()
    with pytest.raises(Cancelled, match=r"closed during the stream"):
        await asyncio.wait_for(task, 5)


async def test_a_stream_has_a_deadline_if_it_is_given_one(node: FakeNode) -> None:
    async with AsyncClient(node.target) as client:
        with pytest.raises(DeadlineExceeded):
            async for _ in client.predict_stream(ask(1, pause=asyncio.Event()), deadline_s=0.1):
                pass
