"""The asyncio client against a real server: calls, cancellation, and streams in order."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np
import pytest
from starling.predict.v1.predict_service_pb2 import (
    PredictRequest,
)

from services.client import (
    AsyncClient,
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    QueueFull,
    Request,
    RetryPolicy,
    Unavailable,
)
from tests.support.waiting import wait_until

from .conftest import FakeNode, Serve, echo
from .test_client import FRAME, Models, refuse

# gRPC loses events of calls when one loop is closed and the next one begins.
pytestmark = pytest.mark.asyncio(loop_scope="session")


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
    node.answer = lambda request: echo(request) if release.wait(30) else b""
    async with AsyncClient(node.target) as client:
        with pytest.raises(DeadlineExceeded, match=r"no answer from .* within 0.05 s"):
            await client.predict("m", {"x": FRAME}, deadline_s=0.05)
    release.set()


async def test_a_cancelled_task_stays_cancelled(node: FakeNode) -> None:
    release = threading.Event()
    node.answer = lambda request: echo(request) if release.wait(30) else b""
    async with AsyncClient(node.target) as client:
        task = asyncio.create_task(client.predict("m", {"x": FRAME}, deadline_s=20))
        assert await asyncio.to_thread(wait_until, lambda: bool(node.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.predict("m", {"x": FRAME}, deadline_s=20)
    release.set()


async def test_closing_the_client_ends_its_calls(node: FakeNode) -> None:
    release = threading.Event()
    node.answer = lambda request: echo(request) if release.wait(30) else b""
    client = AsyncClient(node.target)
    task = asyncio.create_task(client.predict("m", {"x": FRAME}, deadline_s=20))
    assert await asyncio.to_thread(wait_until, lambda: bool(node.requests))
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
        assert await asyncio.to_thread(node.cancelled.wait, 30)


async def test_a_cancelled_task_ends_its_stream(node: FakeNode) -> None:
    started = asyncio.Event()

    async def run() -> None:
        async with aclosing(client.predict_stream(ask(1, pause=asyncio.Event()))) as answers:
            async for _ in answers:
                started.set()

    async with AsyncClient(node.target) as client:
        task = asyncio.create_task(run())
        await asyncio.wait_for(started.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(node.cancelled.wait, 30)


async def test_closing_the_client_ends_its_streams(node: FakeNode) -> None:
    started = asyncio.Event()
    client = AsyncClient(node.target)

    async def run() -> None:
        async for _ in client.predict_stream(ask(1, pause=asyncio.Event())):
            started.set()

    task = asyncio.create_task(run())
    await asyncio.wait_for(started.wait(), 30)
    await client.close()
    with pytest.raises(Cancelled, match=r"closed during the stream"):
        await asyncio.wait_for(task, 30)
