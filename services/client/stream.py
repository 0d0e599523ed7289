"""A stream for the asyncio client: one task takes requests from the caller, another one writes them, a loop reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from contextlib import aclosing
from typing import Any

import grpc

from .errors import Cancelled, DeadlineExceeded
from .outbox import Answer, Attempts, Explain, Open, Outbox, check_in_flight
from .values import Request

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs


class _Feed:
    """What is to be sent, with the waiting for it."""

    def __init__(self, requests: AsyncIterable[Request], in_flight_max: int) -> None:
        self.outbox = Outbox()
        self.room = asyncio.Semaphore(in_flight_max)
        self.changed = asyncio.Event()
        self._requests = requests

    async def fill(self) -> None:
        """Takes every request as soon as there is room; keeps what went wrong."""
        try:
            async for request in self._requests:
                await self.room.acquire()
                self.outbox.add(request)
                self.changed.set()
        except BaseException as error:
            self.outbox.failure = error
            raise
        finally:
            self.outbox.ended = True
            self.changed.set()

    async def wait(self) -> bool:
        """Waits for something to send; False when nothing more will come, or not in this call."""
        while self.outbox.may_wait:
            self.changed.clear()
            await self.changed.wait()
        return self.outbox.may_write


async def run_stream(
    open_call: Open,
    explain: Explain,
    requests: AsyncIterable[Request],
    *,
    in_flight_max: int,
    end_s: float | None = None,
) -> AsyncGenerator[Answer, None]:
    """Yields one answer or refusal per request, in order; cancels the call when left early.

    Args:
        open_call: opens a call; asked again after a node that drains, or is lost, has ended one.
        explain: makes an error of ours of what ended a call.
        requests: what to send.
        in_flight_max: most requests without an answer, >= 1.
        end_s: monotonic time at which the stream ends; None means never.

    Raises:
        StarlingError: the peer ended the stream with an error and does not drain, or the time is over.
        InvalidInput: a request cannot be written.
        MalformedReply: an answer cannot be read, or there are more or fewer answers than requests.
    """
    check_in_flight(in_flight_max)
    feed, attempts = _Feed(requests, in_flight_max), Attempts()
    filling = asyncio.create_task(feed.fill())
    try:
        while await _wait(feed, end_s):
            try:
                answers = _run_call(open_call(feed.outbox.first), feed)
                async with aclosing(answers):
                    async for answer in answers:
                        attempts.answered()
                        feed.room.release()
                        yield answer
                if not feed.outbox.leaving:
                    return
            except grpc.RpcError as ended:
                attempts.judge(ended, explain, feed.outbox)
            await asyncio.sleep(attempts.next_wait_s())
            feed.outbox.begin_again()
        if feed.outbox.failure is not None:
            raise feed.outbox.failure
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def _wait(feed: _Feed, end_s: float | None) -> bool:
    """Waits for something to send while there is no call; False when nothing more will come."""
    try:
        async with asyncio.timeout(None if end_s is None else max(0.0, end_s - time.monotonic())):
            return await feed.wait()
    except TimeoutError:
        raise DeadlineExceeded("the time of the stream is over") from None


async def _run_call(call: Any, feed: _Feed) -> AsyncGenerator[Answer, None]:
    """Yields the answers of one call; ends early when its node drains."""
    writer = asyncio.create_task(_write(call, feed))
    try:
        while (reply := await _read(call, feed.outbox)) is not _EOF:
            for answer in feed.outbox.take(reply):
                yield answer
            if feed.outbox.leaving:
                feed.changed.set()
            if feed.outbox.is_left:
                return
        feed.outbox.check_end()
    finally:
        call.cancel()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _write(call: Any, feed: _Feed) -> None:
    """Sends every request; ends the call when one cannot be made, so that the reader wakes up."""
    while await feed.wait():
        if not await _send(call.write(feed.outbox.pop())):
            return
    if feed.outbox.failure is not None:
        call.cancel()
    elif not feed.outbox.leaving:
        await _send(call.done_writing())


async def _send(writing: Awaitable[None]) -> bool:
    """Waits until something is written; False when the peer has ended the call."""
    try:
        await writing
    except (asyncio.InvalidStateError, grpc.RpcError):
        return False
    return True


async def _read(call: Any, outbox: Outbox) -> Any:
    """Returns the next reply, or raises what stopped the requests when that ended the call."""
    try:
        return await call.read()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # somebody cancelled us, not the call
        if outbox.failure is not None:
            raise outbox.failure from None
        raise Cancelled("the client was closed during the stream") from error
