"""What only streams of the blocking client do: threads, and leaving the loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from services.client import Cancelled, Client, Prediction, Request, Unavailable
from tests.support.waiting import wait_until

from .conftest import FakeNode
from .test_streams import Answers, ask


def test_leaving_the_loop_cancels_the_call_and_reads_no_more_requests(node: FakeNode) -> None:
    closed = threading.Event()

    def endless() -> Iterator[Request]:
        try:
            while True:
                yield from ask(1)
        finally:
            closed.set()

    with Client(node.target) as client:
        with closing(client.predict_stream(endless())) as answers:
            assert isinstance(next(answers), Prediction)
        assert node.cancelled.wait(20)
        assert closed.wait(20)


def test_closing_the_blocking_client_ends_its_streams(node: FakeNode) -> None:
    client, ended = Client(node.target), threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        def feed() -> Iterator[Request]:
            yield from ask(1)
            ended.wait(60)

        try:
            for _ in client.predict_stream(feed()):
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert wait_until(lambda: bool(node.requests))
    client.close()
    thread.join(20)
    ended.set()
    assert [type(error) for error in errors] == [Cancelled]
    with pytest.raises(Unavailable, match="is closed"):
        list(client.predict_stream(ask(1)))


def test_many_streams_of_one_blocking_client_run_side_by_side(node: FakeNode) -> None:
    found: dict[int, Answers] = {}
    with Client(node.target) as client:
        streams = [
            threading.Thread(target=lambda n=n: found.update({n: list(client.predict_stream(ask(20)))}))
            for n in range(4)
        ]
        for stream in streams:
            stream.start()
        for stream in streams:
            stream.join(60)
    assert [[each.request_id for each in found[n]] for n in range(4)] == [[str(i) for i in range(20)]] * 4
