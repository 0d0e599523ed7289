"""A stream for the blocking client: a thread takes requests from the caller, gRPC's writes them, the caller reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any

import grpc

from .errors import DeadlineExceeded
from .outbox import Answer, Attempts, Explain, Open, Outbox, check_in_flight
from .values import Request


class _Feed:
    """What is to be sent, with the waiting for it. Thread-safe."""

    def __init__(self, requests: Iterable[Request], in_flight_max: int) -> None:
        self.outbox = Outbox()
        self.changed = threading.Condition()  # guards the outbox and all below
        self._requests, self._room = requests, in_flight_max
        self._call: Any = None
        self._closed = False
        threading.Thread(target=self._fill, name="stream", daemon=True).start()

    def _fill(self) -> None:
        """Takes every request as soon as there is room; keeps what went wrong, and ends the call with it."""
        try:
            for request in self._requests:
                with self.changed:
                    self.changed.wait_for(lambda: self._room > 0 or self._closed)
                    if self._closed:
                        return
                    self._room -= 1
                    self.outbox.add(request)
                    self.changed.notify_all()
        except BaseException as error:  # the caller gets it, whatever it is
            with self.changed:
                self.outbox.failure = error
                call = self._call
            if call is not None:
                call.cancel()
        finally:
            with self.changed:
                self.outbox.ended = True
                self.changed.notify_all()

    def wait(self, end_s: float | None) -> bool:
        """Waits for something to send while there is no call; False when nothing more will come.

        Raises:
            DeadlineExceeded: it took too long.
        """
        with self.changed:
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            if not self.changed.wait_for(lambda: not self.outbox.may_wait, left_s):
                raise DeadlineExceeded("the time of the stream is over")
            return self.outbox.may_write

    def begin(self, call: Any) -> None:
        """Notes the present call, which a failure ends."""
        with self.changed:
            self._call = call
            failed = self.outbox.failure is not None
        if failed:
            call.cancel()

    def write(self, turn: threading.Event) -> Iterator[bytes]:
        """Yields every request until the turn of a call is over; from a thread of gRPC's."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: turn.is_set() or not self.outbox.may_wait)
                if turn.is_set() or not self.outbox.may_write:
                    return
                data = self.outbox.pop()
            yield data

    def take(self, reply: bytes) -> list[Answer]:
        """Takes one reply; returns the answers that can be given now."""
        with self.changed:
            answers = list(self.outbox.take(reply))
            self._room += len(answers)
            self.changed.notify_all()
            return answers

    def end(self, turn: threading.Event) -> None:
        """Ends the turn of a call: nothing more is written to it."""
        with self.changed:
            turn.set()
            self._call = None
            self.changed.notify_all()

    def close(self) -> None:
        """Takes no more requests; the thread ends when the caller's next one has come."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()


def run_blocking_stream(
    open_call: Open,
    explain: Explain,
    requests: Iterable[Request],
    *,
    in_flight_max: int,
    end_s: float | None = None,
) -> Generator[Answer, None, None]:
    """Yields what `run_stream` yields, and raises the same.

    Args:
        open_call: returns what takes an iterator of messages and opens a call with it; asked again after a node that
            drains, or is lost, has ended one.
        explain: makes an error of ours of what ended a call.
        requests: what to send; read by a thread of its own.
        in_flight_max: most requests without an answer, >= 1.
        end_s: monotonic time at which the stream ends; None means never.
    """
    check_in_flight(in_flight_max)
    feed, attempts = _Feed(requests, in_flight_max), Attempts()
    try:
        while feed.wait(end_s):
            try:
                with closing(_run_call(open_call(feed.outbox.first), feed)) as answers:
                    for answer in answers:
                        attempts.answered()
                        yield answer
                if not feed.outbox.leaving:
                    break
            except grpc.RpcError as ended:
                if feed.outbox.failure is not None:
                    break
                with feed.changed:
                    attempts.judge(ended, explain, feed.outbox)
            time.sleep(attempts.next_wait_s())
            with feed.changed:
                feed.outbox.begin_again()
        if feed.outbox.failure is not None:
            raise feed.outbox.failure
    finally:
        feed.close()


def _run_call(start: Any, feed: _Feed) -> Generator[Answer, None, None]:
    """Yields the answers of one call; ends early when its node drains."""
    turn = threading.Event()
    call = start(feed.write(turn))
    feed.begin(call)
    try:
        for reply in call:
            yield from feed.take(reply)
            if feed.outbox.is_left:
                return
        feed.outbox.check_end()
    finally:
        call.cancel()
        feed.end(turn)
