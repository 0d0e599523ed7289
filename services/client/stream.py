"""One request stream: a task that writes, a loop that reads, and a bound between them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable
from typing import Any

import grpc

from .codec import decode_stream_response, encode_stream_request
from .errors import Cancelled, InvalidInput, MalformedReply
from .values import Prediction, PredictionError, Request

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in grpc-stubs


async def run_stream(
    call: Any, requests: AsyncIterable[Request], *, in_flight_max: int
) -> AsyncGenerator[Prediction | PredictionError, None]:
    """Yields one answer or refusal per request, in order; cancels the call when left early.

    Args:
        call: an open stream-stream call of bytes.
        requests: what to send.
        in_flight_max: most requests without an answer, >= 1.

    Raises:
        grpc.RpcError: the peer ended the stream with an error.
        InvalidInput: a request cannot be written.
        MalformedReply: an answer cannot be read, or there are more answers than requests.
    """
    if in_flight_max < 1:
        raise InvalidInput(f"in_flight_max is {in_flight_max}; expected >= 1")
    room = asyncio.Semaphore(in_flight_max)
    sent_s: deque[float] = deque()
    writer = asyncio.create_task(_write(call, requests, room, sent_s))
    try:
        while (reply := await _read(call, writer)) is not _EOF:
            if not sent_s:
                raise MalformedReply("the stream gave an answer to no request")
            round_trip_us = round((time.monotonic() - sent_s.popleft()) * 1e6)
            room.release()
            yield decode_stream_response(reply, round_trip_us)
        if sent_s and (await call.code()) == grpc.StatusCode.OK:
            raise MalformedReply(f"the stream ended with {len(sent_s)} requests unanswered")
    finally:
        call.cancel()
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


def lost_while_writing(error: grpc.RpcError) -> bool:
    """Returns whether the peer ended the call in the middle of a write.

    grpcio then replaces the peer's status with this one of its own, so why it ended is lost.
    """
    call: Any = error
    return bool(call.code() is grpc.StatusCode.INTERNAL and call.details() == "Internal error from Core")


async def _write(call: Any, requests: AsyncIterable[Request], room: asyncio.Semaphore, sent_s: deque[float]) -> None:
    """Sends every request; when one cannot be made, ends the call, so that the reader wakes up."""
    try:
        async for request in requests:
            await room.acquire()
            data = encode_stream_request(request)
            sent_s.append(time.monotonic())
            if not await _send(call.write(data)):
                return
        await _send(call.done_writing())
    except BaseException:
        call.cancel()
        raise


async def _send(writing: Awaitable[None]) -> bool:
    """Waits until something is written; False when the peer has ended the call."""
    try:
        await writing
    except (asyncio.InvalidStateError, grpc.RpcError):
        return False
    return True


async def _read(call: Any, writer: asyncio.Task[None]) -> Any:
    """Returns the next reply, or raises what stopped the writer when that ended the call."""
    try:
        return await call.read()
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # somebody cancelled us, not the call
        if writer.done() and not writer.cancelled() and (failure := writer.exception()):
            raise failure from None
        raise Cancelled("the client was closed during the stream") from error
