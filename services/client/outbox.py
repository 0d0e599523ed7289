"""What of a stream is not answered yet, and when a call that ended is worth another one. No waiting, no threads.

A stream is one or several calls: a node that drains ends its call, and the next one goes on. A request stays here until
its answer has come, so that whatever was not answered can be sent again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from .codec import decode_stream_response, encode_stream_request
from .errors import Draining, InvalidInput, MalformedReply, StarlingError, Unavailable
from .status import translate_rpc_error
from .values import Prediction, PredictionError, Request

CALLS_MAX = 6
"""Calls in a row that answered nothing, after which the stream ends with the error of the first."""

_WAIT_S = 0.05  # before the second of them; doubles
_REFUSALS_MAX = 3  # of one request by nodes that drain

Open = Callable[[Request], Any]
"""Opens a call of bytes for a stream that begins, or goes on, with this request."""

Explain = Callable[[grpc.RpcError], StarlingError]
Answer = Prediction | PredictionError


@dataclass(eq=False, slots=True)
class _Item:
    """A request on its way: sent in the present call since `sent_s`, if at all."""

    request: Request
    data: bytes
    sent_s: float = 0.0
    answer: Answer | None = None
    refusals: int = 0


class Outbox:
    """The requests that are not answered yet, oldest first, and those that the present call has not written.

    Attributes:
        ended: no more requests will come.
        leaving: the node of the present call drains, so nothing more is written to it.
        failure: what stopped the requests.
    """

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._unsent: deque[_Item] = deque()
        self._sent: deque[_Item] = deque()
        self.ended = False
        self.leaving = False
        self.failure: BaseException | None = None

    @property
    def first(self) -> Request:
        """Returns the request that the next call begins with."""
        return self._unsent[0].request

    @property
    def may_write(self) -> bool:
        """Returns whether the present call has something to write."""
        return bool(self._unsent) and not self.leaving

    @property
    def may_wait(self) -> bool:
        """Returns whether something to write may still come in this call."""
        return not (self._unsent or self.ended or self.leaving)

    @property
    def is_left(self) -> bool:
        """Returns whether the node drains and has answered all that was written to it."""
        return self.leaving and not self._sent

    def add(self, request: Request) -> None:
        """Takes a request.

        Raises:
            InvalidInput: it cannot be written.
        """
        item = _Item(request, encode_stream_request(request))
        self._items.append(item)
        self._unsent.append(item)

    def pop(self) -> bytes:
        """Returns the oldest request that the present call has not written, which is under way from now."""
        item = self._unsent.popleft()
        item.sent_s = time.monotonic()
        self._sent.append(item)
        return item.data

    def take(self, reply: bytes) -> Iterator[Answer]:
        """Takes one reply, and yields the answers that can be given now, in order.

        Raises:
            MalformedReply: it cannot be read, or nothing was asked.
        """
        if not self._sent:
            raise MalformedReply("the stream gave an answer to no request")
        item = self._sent.popleft()
        answer = decode_stream_response(reply, round((time.monotonic() - item.sent_s) * 1e6))
        drains = isinstance(answer, PredictionError) and answer.reason == Draining.default_reason
        if drains and item.refusals < _REFUSALS_MAX:
            item.refusals += 1
            self.leaving = True
        else:
            item.answer = answer
        while self._items and (oldest := self._items[0].answer) is not None:
            self._items.popleft()
            yield oldest

    def check_end(self) -> None:
        """Accepts that the peer ended the call well.

        Raises:
            MalformedReply: it owes answers.
        """
        if self._items and not self.leaving:
            raise MalformedReply(f"the stream ended with {len(self._items)} requests unanswered")

    def begin_again(self) -> None:
        """Makes everything without an answer unsent."""
        self.leaving = False
        self._sent.clear()
        self._unsent = deque(item for item in self._items if item.answer is None)

    def may_repeat(self) -> bool:
        """Returns whether all can be sent again of which nobody knows how far it came; a step must not run twice."""
        return not any(item.request.sequence_id and item.sent_s and item.answer is None for item in self._items)


class Attempts:
    """Counts the calls of a stream that answered nothing, and says when the next one is worth it."""

    def __init__(self) -> None:
        self._count = 0
        self._first: StarlingError | None = None
        self._has_answered = False

    def answered(self) -> None:
        """Notes that the present call gave an answer."""
        self._count, self._first, self._has_answered = 0, None, True

    def judge(self, ended: grpc.RpcError, explain: Explain, outbox: Outbox) -> None:
        """Accepts that a call ended so.

        Raises:
            StarlingError: the stream ends with it; of several calls it is the error of the first.
        """
        error = explain(ended)
        drains = isinstance(error, Draining) or (self._count > 0 and isinstance(error, Unavailable))
        # The node, or the gateway, is gone in the middle of it.
        lost = _is_cut(ended) or (self._has_answered and isinstance(error, Unavailable))
        if not drains and not (lost and outbox.may_repeat()):
            raise self._first or error from ended
        self._first = self._first or error
        if self._count + 1 >= CALLS_MAX:
            raise self._first from ended

    def next_wait_s(self) -> float:
        """Returns how long to wait before the next call."""
        wait_s = _WAIT_S * 2 ** (self._count - 1) if self._count else 0.0
        self._count += 1
        return wait_s


def check_in_flight(in_flight_max: int) -> None:
    """Accepts the bound of a stream.

    Raises:
        InvalidInput: it is none.
    """
    if in_flight_max < 1:
        raise InvalidInput(f"in_flight_max is {in_flight_max}; expected >= 1")


def explain_end(error: grpc.RpcError, target: str, limit_s: float) -> StarlingError:
    """Returns an error of ours for what ended a call of a stream.

    Args:
        error: raised by the call.
        target: address that was called.
        limit_s: time that the stream was given, for the message.
    """
    if _is_cut(error):
        return Unavailable(f"{target} ended the stream in the middle of it; open it again")
    return translate_rpc_error(error, target=target, deadline_s=limit_s)


def _is_cut(error: grpc.RpcError) -> bool:
    """Returns whether the call ended without a status of the peer's, so that only grpcio has a word for it.

    In the middle of a write it puts its own status in the place of the peer's; a gateway that lost the node resets the
    stream.
    """
    call: Any = error
    text = call.details() or ""
    return call.code() is grpc.StatusCode.INTERNAL and (text == "Internal error from Core" or "RST_STREAM" in text)
