"""A gRPC call over bare HTTP/2: shows what gRPC's own clients keep to themselves, such as load reports."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived


@dataclass(slots=True)
class RawReply:
    """What came back; a refusal without a message has everything in its headers."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def _headers_of(target: str, method: str, **headers: str) -> list[tuple[str, str]]:
    fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": target, "te": "trailers"}
    fields |= {"content-type": "application/grpc"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return list(fields.items())


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def open_calls(target: str, method: str, messages: list[bytes], timeout_s: float = 30.0) -> socket.socket:
    """Sends each message as a call of its own; returns the connection, on which nobody waits for answers."""
    host, _, port = target.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout_s)
    http = H2Connection(H2Configuration(header_encoding="utf-8"))
    http.initiate_connection()
    for number, message in enumerate(messages):
        http.send_headers(2 * number + 1, _headers_of(target, method))
        http.send_data(2 * number + 1, _frame(message), end_stream=True)
    connection.sendall(http.data_to_send())
    return connection


def call_raw(target: str, method: str, message: bytes, timeout_s: float = 30.0, **headers: str) -> RawReply:
    """Sends one message and returns the whole answer; underscores in the names of headers are hyphens."""
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout_s) as connection:
        http = H2Connection(H2Configuration(header_encoding="utf-8"))
        http.initiate_connection()
        http.send_headers(1, _headers_of(target, method, **headers))
        http.send_data(1, _frame(message), end_stream=True)
        reply = RawReply()
        while True:
            connection.sendall(http.data_to_send())
            received = connection.recv(65536)
            assert received, f"{target} closed the connection"
            for event in http.receive_data(received):
                match event:
                    case ResponseReceived(headers=found):
                        reply.headers = dict(found)
                    case TrailersReceived(headers=found):
                        reply.trailers = dict(found)
                    case DataReceived(data=data, flow_controlled_length=size):
                        reply.body += data
                        http.acknowledge_received_data(size, 1)
                    case StreamEnded():
                        return reply
                    case StreamReset() | ConnectionTerminated():
                        raise AssertionError(f"{target}: {event}")
