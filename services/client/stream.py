"""One request stream over one or several calls: a node that drains ends its call, and the next one goes on.

A task takes requests from the caller, another one writes them, a loop reads the answers. A request stays here until its
answer has come, so that whatever was not answered can be sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc

from .codec import decode_stream_response, encode_stream_request
from .errors import Cancelled, DeadlineExceeded, Draining, InvalidInput, MalformedReply, StarlingError, Unavailable
from .values import Prediction, PredictionError, Request

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs

CALLS_MAX = 6
"""Calls in a row that answered nothing, after which the stream ends with the error of the first."""

_WAIT_S = 0.05  # before the second of them; doubles
_REFUSALS_MAX = 3  # of one request by nodes that drain

Open = Callable[[Request], Any]
"""Opens a stream-stream call of bytes that begins with this request."""

Explain = Callable[[grpc.RpcError], StarlingError]


@dataclass(eq=False, slots=True)
class _Item:
    """A request on its way: sent in the present call since `sent_s`, if at all."""

    request: Request
    data: bytes
    sent_s: float = 0.0
    answer: Prediction | PredictionError | None = None
    refusals: int = 0


class _Outbox:
    """The requests that are not answered yet, oldest first, and those that the present call has not written."""

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self.unsent: deque[_Item] = deque()
        self.ended = False
        self.leaving = False  # the node of this call drains: nothing more is written to it
        self.failure: BaseException | None = None
        self.changed = asyncio.Event()

    async def fill(self, requests: AsyncIterable[Request], room: asyncio.Semaphore) -> None:
        """Takes every request as soon as there is room; keeps what went wrong."""
        try:
            async for request in requests:
                await room.acquire()
                item = _Item(request, encode_stream_request(request))
                self.items.append(item)
                self.unsent.append(item)
                self.changed.set()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.ended = True
            self.changed.set()

    async def wait(self) -> bool:
        """Waits for something to send; False when nothing more will come, or not in this call."""
        while not (self.unsent or self.ended or self.leaving):
            self.changed.clear()
            await self.changed.wait()
        return bool(self.unsent) and not self.leaving

    def leave(self) -> None:
        """Lets the present call end with what has been written to it."""
        self.leaving = True
        self.changed.set()

    def begin_again(self) -> None:
        """Makes everything without an answer unsent."""
        self.leaving = False
        self.unsent = deque(item for item in self.items if item.answer is None)

    def may_repeat(self) -> bool:
        """Returns whether all can be sent again of which nobody knows how far it came; a step must not run twice."""
        return not any(item.request.sequence_id and item.sent_s and item.answer is None for item in self.items)


async def run_stream(
    open_call: Open,
    explain: Explain,
    requests: AsyncIterable[Request],
    *,
    in_flight_max: int,
    end_s: float | None = None,
) -> AsyncGenerator[Prediction | PredictionError, None]:
    """Yields one answer or refusal per request, in order; cancels the call when left early.

    Args:
        open_call: opens a call; asked again after a node that drains has ended one.
        explain: makes an error of ours of what ended a call.
        requests: what to send.
        in_flight_max: most requests without an answer, >= 1.
        end_s: monotonic time at which the stream ends; None means never.

    Raises:
        StarlingError: the peer ended the stream with an error and does not drain, or the time is over.
        InvalidInput: a request cannot be written.
        MalformedReply: an answer cannot be read, or there are more or fewer answers than requests.
    """
    if in_flight_max < 1:
        raise InvalidInput(f"in_flight_max is {in_flight_max}; expected >= 1")
    room = asyncio.Semaphore(in_flight_max)
    outbox = _Outbox()
    filling = asyncio.create_task(outbox.fill(requests, room))
    first: StarlingError | None = None
    attempt = 0
    try:
        while await _wait(outbox, end_s):
            try:
                answers = _run_call(open_call(outbox.unsent[0].request), outbox)
                async with aclosing(answers):
                    async for answer in answers:
                        attempt, first = 0, None
                        room.release()
                        yield answer
                if not outbox.leaving:
                    return
            except grpc.RpcError as ended:
                error, lost = explain(ended), lost_while_writing(ended)
                drains = isinstance(error, Draining) or (attempt > 0 and isinstance(error, Unavailable))
                if not drains and not (lost and outbox.may_repeat()):
                    raise first or error from ended
                first = first or error
                if attempt + 1 >= CALLS_MAX:
                    raise first from ended
            await asyncio.sleep(_WAIT_S * 2 ** (attempt - 1) if attempt else 0)
            attempt += 1
            outbox.begin_again()
        if outbox.failure is not None:
            raise outbox.failure
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


def lost_while_writing(error: grpc.RpcError) -> bool:
    """Returns whether the peer ended the call in the middle of a write.

    grpcio then replaces the peer's status with this one of its own, so why it ended is lost.
    """
    call: Any = error
    return bool(call.code() is grpc.StatusCode.INTERNAL and call.details() == "Internal error from Core")


async def _wait(outbox: _Outbox, end_s: float | None) -> bool:
    """Waits for something to send while there is no call; False when nothing more will come."""
    try:
        async with asyncio.timeout(None if end_s is None else max(0.0, end_s - time.monotonic())):
            return await outbox.wait()
    except TimeoutError:
        raise DeadlineExceeded("the time of the stream is over") from None


async def _run_call(call: Any, outbox: _Outbox) -> AsyncGenerator[Prediction | PredictionError, None]:
    """Yields the answers of one call; ends early when its node drains."""
    sent: deque[_Item] = deque()
    writer = asyncio.create_task(_write(call, outbox, sent))
    try:
        while (reply := await _read(call, outbox)) is not _EOF:
            if not sent:
                raise MalformedReply("the stream gave an answer to no request")
            item = sent.popleft()
            answer = decode_stream_response(reply, round((time.monotonic() - item.sent_s) * 1e6))
            if _drains(answer) and item.refusals < _REFUSALS_MAX:
                item.refusals += 1
                outbox.leave()
            else:
                item.answer = answer
            while outbox.items and (oldest := outbox.items[0].answer) is not None:
                outbox.items.popleft()
                yield oldest
            if outbox.leaving and not sent:
                return
        if not outbox.leaving and outbox.items:
            raise MalformedReply(f"the stream ended with {len(outbox.items)} requests unanswered")
    finally:
        call.cancel()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


def _drains(answer: Prediction | PredictionError) -> bool:
    return isinstance(answer, PredictionError) and answer.reason == Draining.default_reason


async def _write(call: Any, outbox: _Outbox, sent: deque[_Item]) -> None:
    """Sends every request; ends the call when one cannot be made, so that the reader wakes up."""
    while await outbox.wait():
        item = outbox.unsent.popleft()
        item.sent_s = time.monotonic()
        sent.append(item)
        if not await _send(call.write(item.data)):
            return
    if outbox.failure is not None:
        call.cancel()
    elif not outbox.leaving:
        await _send(call.done_writing())


async def _send(writing: Awaitable[None]) -> bool:
    """Waits until something is written; False when the peer has ended the call."""
    try:
        await writing
    except (asyncio.InvalidStateError, grpc.RpcError):
        return False
    return True


async def _read(call: Any, outbox: _Outbox) -> Any:
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
