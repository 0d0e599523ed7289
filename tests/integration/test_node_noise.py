"""Noise on a node's port: whatever the bytes are, the node answers the next good request. All noise is seeded."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from random import Random

import grpc
import numpy as np
import pytest
from starling.predict.v1.predict_service_pb2 import PredictResponse

from tests.support.node import RunningNode
from tests.support.node_calls import PREDICT, PREDICT_STREAM, echo_request, pass_bytes, raw_method
from tests.support.waiting import wait_until

GOOD = echo_request(1.5).SerializeToString()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, CONTINUATION = 0, 1, 3, 4, 9
END_STREAM, END_HEADERS = 1, 4
GROWTH_BYTES_MAX = 64 << 20


@pytest.fixture(autouse=True)
def the_node_goes_on(node: RunningNode) -> Iterator[None]:
    """Holds after every test: a good request on a new connection is answered, and nothing is left over."""
    before = node.count("process_resident_memory_bytes")
    yield
    with node.connect() as channel:
        answer = PredictResponse.FromString(raw_method(channel)(GOOD, timeout=10))
    assert np.frombuffer(answer.outputs[0].data, np.float32).tolist() == [1.5] * 64
    assert wait_until(lambda: node.count("starling_calls_in_flight") == 0)
    assert node.count("process_resident_memory_bytes") - before < GROWTH_BYTES_MAX


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """Returns an HTTP/2 frame; `length` lies about the payload."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def call_headers(path: str = PREDICT) -> bytes:
    """Returns the header block of a gRPC call, every field as a plain literal."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "n", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    texts = (text.encode() for pair in fields.items() for text in pair)
    literals = [bytes([len(text)]) + text for text in texts]
    return b"".join(b"\0" + name + value for name, value in zip(literals[::2], literals[1::2], strict=True))


OPEN = PREFACE + frame(SETTINGS, 0, 0, b"")
CALL = OPEN + frame(HEADERS, END_HEADERS, 1, call_headers())


def send(node: RunningNode, *pieces: bytes, until: bytes = b"") -> bytes:
    """Sends pieces on a connection of its own; returns what comes back.

    That is all until the node is silent for a moment or hangs up, or all up to some bytes that have to come.
    """
    got = b""
    with socket.create_connection(("127.0.0.1", node.port), timeout=30 if until else 0.2) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            for piece in pieces:
                wire.sendall(piece)
            while not (until and until in got) and (data := wire.recv(65536)):
                got += data
    return got


def message(data: bytes, compressed: int = 0) -> bytes:
    """Returns a gRPC message."""
    return struct.pack(">BI", compressed, len(data)) + data


def open_and_reset(stream: int) -> bytes:
    """Returns a call that is given up at once."""
    return frame(HEADERS, END_HEADERS, stream, call_headers()) + frame(RESET, 0, stream, bytes(4))


CUT = message(GOOD)[:14]
MORE_HEADERS = frame(CONTINUATION, 0, 1, b"\0")
NOISE: dict[str, Callable[[Random], list[bytes]]] = {
    "random bytes": lambda rng: [rng.randbytes(20_000)],
    "zeros": lambda rng: [bytes(20_000)],
    "half of the preface": lambda rng: [PREFACE[:12]],
    "HTTP/1": lambda rng: [b"GET /metrics HTTP/1.1\r\nHost: n\r\n\r\n"],
    "TLS": lambda rng: [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508)],
    "noise after the preface": lambda rng: [PREFACE, rng.randbytes(20_000)],
    "noise after the settings": lambda rng: [OPEN, rng.randbytes(20_000)],
    "one byte a write": lambda rng: [bytes([byte]) for byte in CALL + rng.randbytes(3000)],
    "a frame of 16 MiB": lambda rng: [OPEN, frame(DATA, 0, 1, rng.randbytes(4000), length=(1 << 24) - 1)],
    "data without a call": lambda rng: [OPEN, frame(DATA, END_STREAM, 77, rng.randbytes(100))],
    "an even stream": lambda rng: [OPEN, frame(HEADERS, END_HEADERS, 2, call_headers())],
    "headers without an end": lambda rng: [OPEN, frame(HEADERS, 0, 1, call_headers()), MORE_HEADERS * 500],
    "broken header block": lambda rng: [OPEN, frame(HEADERS, END_HEADERS, 1, rng.randbytes(300))],
    "a message of 4 GiB": lambda rng: [CALL, frame(DATA, 0, 1, b"\0\xff\xff\xff\xff" + rng.randbytes(1000))],
    "a message without an end": lambda rng: [CALL, frame(DATA, 0, 1, CUT)],
    "a short message": lambda rng: [CALL, frame(DATA, END_STREAM, 1, CUT)],
    "a compressed message": lambda rng: [CALL, frame(DATA, END_STREAM, 1, message(rng.randbytes(50), compressed=1))],
    "two messages": lambda rng: [CALL, frame(DATA, END_STREAM, 1, message(GOOD) * 2)],
    "many resets": lambda rng: [OPEN, *(open_and_reset(n) for n in range(1, 400, 2))],
}  # fmt: skip


@pytest.mark.parametrize("name", NOISE)
def test_noise_on_the_wire_changes_nothing(node: RunningNode, name: str) -> None:
    send(node, *NOISE[name](Random(name)))


def test_a_call_made_by_hand_is_answered(node: RunningNode) -> None:
    # What makes the noise above meaningful: the same bytes, but right.
    answer = np.full(64, 1.5, np.float32).tobytes()
    assert answer in send(node, CALL, frame(DATA, END_STREAM, 1, message(GOOD)), until=answer)


def test_random_frames_change_nothing(node: RunningNode) -> None:
    rng = Random(11)
    for _ in range(30):
        frames = [
            frame(
                rng.randrange(12),
                rng.randrange(256),
                rng.choice((0, 1, 3, 5, 1 << 30)),
                rng.randbytes(rng.randrange(80)),
            )
            for _ in range(20)
        ]
        with socket.create_connection(("127.0.0.1", node.port), timeout=1) as wire, suppress(OSError):
            wire.sendall(rng.choice((OPEN, CALL)) + b"".join(frames))
            wire.recv(65536)


def test_connections_that_come_and_go_change_nothing(node: RunningNode) -> None:
    for number in range(500):
        with socket.create_connection(("127.0.0.1", node.port), timeout=5) as wire:
            if number % 3 == 0:
                # Closes with a reset instead of politely.
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 2 == 0:
                wire.sendall(CALL[: number % len(CALL)])


def test_connections_that_say_nothing_do_not_keep_others_out(node: RunningNode, channel: grpc.Channel) -> None:
    with ExitStack() as open_connections:
        for number in range(100):
            wire = open_connections.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=5))
            wire.sendall(CALL[: number % 40])
        assert raw_method(channel)(GOOD, timeout=5)


def test_seeded_mutations_of_a_good_message_are_answered_or_refused(node: RunningNode, channel: grpc.Channel) -> None:
    rng = Random(2026)
    predict = raw_method(channel)
    codes = set()
    for _ in range(1500):
        message = bytearray(GOOD)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(message) + 1)
            match rng.randrange(4):
                case 0:
                    message[at : at + 1] = bytes([rng.randrange(256)])
                case 1:
                    del message[at : at + rng.randint(1, 20)]
                case 2:
                    message[at:at] = rng.randbytes(rng.randint(1, 20))
                case _:
                    message[at:at] = message[: rng.randint(1, len(message) or 1)]
        try:
            predict(bytes(message), timeout=10)
            codes.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            codes.add(error.code())
    assert codes <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.DEADLINE_EXCEEDED,  # a budget of a few microseconds
    }
    assert {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT} <= codes
    assert node.count("starling_expired_executed_total") == 0


def test_seeded_noise_in_a_stream_is_refused_message_by_message(channel: grpc.Channel) -> None:
    rng = Random(7)
    messages = [rng.randbytes(rng.randint(0, 200)) for _ in range(300)]
    call = channel.stream_stream(PREDICT_STREAM, pass_bytes, pass_bytes)(iter(messages), timeout=20)
    assert len(list(call)) == 300
