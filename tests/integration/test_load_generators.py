"""`starling-load` and `starling-replay` against a node, against a server that stops reading, and misused."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh.bench.requests import write_request
from mesh.bench.rig import PREDICT, find_program
from mesh.bench.traces import Arrival, poisson, write_trace
from tests.support.node import RunningNode

_LONG_US = 60_000_000
_LIMIT_S = 120.0


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [find_program(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)


def run_json(program: str, *arguments: object) -> dict[str, Any]:
    done = run(program, *arguments)
    assert not done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def read_bytes(connection: socket.socket, count: int) -> None:
    while count > 0 and (received := connection.recv(1 << 16)):
        count -= len(received)


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    return write_request(tmp_path / "request", "echo", {"x0": np.ones((1, 64), np.float32)})


@pytest.fixture
def broken_file(tmp_path: Path) -> Path:
    return write_request(tmp_path / "broken", "broken", {"x0": np.ones((1, 4), np.float32)})


def test_every_arrival_of_a_trace_is_counted_once(node: RunningNode, request_file: Path, tmp_path: Path) -> None:
    arrivals = [
        Arrival(at_us=1_000 * i, deadline_us=_LONG_US, tenant=i % 3 - 1, stream=i % 2 - 1, sequence=i, priority=i % 4)
        for i in range(300)
    ]
    outcomes = tmp_path / "outcomes"
    found = run_json(
        "starling-replay", node.target, PREDICT, request_file, write_trace(tmp_path / "trace", arrivals), outcomes
    )
    # The newest frame of a stream takes the place of one that waits; a burst after a pause may fill the queue.
    refused = found["refused"]
    assert set(refused) <= {"8", "10"}
    assert (found["sent"], found["met"] + sum(refused.values()), found["late"]) == (300, 300, 0)
    assert found["met"] > 0
    assert {tenant: counts["sent"] for tenant, counts in found["tenants"].items()} == {"-1": 100, "0": 100, "1": 100}
    assert sum(counts["met"] for counts in found["tenants"].values()) == found["met"]
    assert found["first_error"] == ""
    lines = [line.split() for line in outcomes.read_text().splitlines()]
    assert sorted(int(at_us) for at_us, _, _ in lines) == [arrival.at_us for arrival in arrivals]
    assert Counter(code for _, _, code in lines) == Counter({"0": found["met"], **refused})
    assert all(0 < int(took_us) < _LONG_US for _, took_us, _ in lines)


def test_what_is_too_late_is_given_up_at_its_deadline(node: RunningNode, request_file: Path, tmp_path: Path) -> None:
    arrivals = [Arrival(at_us=1_000 * i, deadline_us=1 if i % 2 else _LONG_US) for i in range(100)]
    trace = write_trace(tmp_path / "trace", arrivals)
    found = run_json("starling-replay", node.target, PREDICT, request_file, trace)
    assert (found["sent"], found["met"], found["refused"]) == (100, 50, {"4": 50})
    assert found["p99_us"] < _LONG_US


def test_refusals_that_are_no_overload_say_what_is_wrong(node: RunningNode, broken_file: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace", poisson(200.0, 0.1, 60.0, seed=1))
    found = run_json("starling-replay", node.target, PREDICT, broken_file, trace)
    assert found["met"] == 0
    assert found["first_error"].startswith("13 ")
    unknown = run_json("starling-replay", node.target, "/no.Service/Method", broken_file, trace)
    assert unknown["refused"] == {"12": unknown["sent"]}
    assert unknown["first_error"].startswith("12 ")


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """A server that reads the beginning of the first call, answers it, and then reads no more."""
    # Windows as large as they get: nothing but the socket holds the caller back.
    greeting = bytes.fromhex("000006 04 00 00000000 0004 7fffffff  000004 08 00 00000000 7fff0000")
    # :status 200, grpc-status 0, and the end.
    answer = bytes.fromhex("000010 01 05 00000001 88 00 0b") + b"grpc-status" + bytes.fromhex("01") + b"0"
    let_go = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(greeting)
            read_bytes(connection, 1 << 20)
            connection.sendall(answer)
            let_go.wait(_LIMIT_S)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        server = threading.Thread(target=serve)
        server.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        let_go.set()
        server.join()


def test_a_server_that_stops_reading_delays_neither_sends_nor_answers(deaf_server: str, tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(bytes(2 << 20))
    arrivals = [Arrival(0, _LONG_US)] + [Arrival(10_000 * i, 500_000) for i in range(1, 30)]
    outcomes = tmp_path / "outcomes"
    found = run_json(
        "starling-replay", deaf_server, PREDICT, request, write_trace(tmp_path / "trace", arrivals), outcomes
    )
    assert (found["sent"], found["met"], found["late"], found["refused"]) == (30, 1, 0, {"4": 29})
    took_us = {int(at_us): int(took_us) for at_us, took_us, _ in map(str.split, outcomes.read_text().splitlines())}
    assert all(took_us[arrival.at_us] >= arrival.deadline_us for arrival in arrivals[1:])


def test_a_server_that_goes_ends_the_replay(request_file: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace", [Arrival(0, _LONG_US)])

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(bytes.fromhex("000000 04 00 00000000"))
            read_bytes(connection, 200)  # more than a greeting

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        done = run("starling-replay", f"127.0.0.1:{listener.getsockname()[1]}", "/Predict", request_file, trace)
        server.join()
    assert done.returncode == 1
    assert not done.stdout
    assert "connection" in done.stderr


def test_load_counts_its_answers(node: RunningNode, request_file: Path, broken_file: Path) -> None:
    found = run_json("starling-load", node.target, PREDICT, request_file, 4, 30, 500)
    assert (found["sent"], found["errors"], found["first_error"]) == (500, 0, "")
    failed = run("starling-load", node.target, PREDICT, broken_file, 4, 30, 20)
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["errors"] == 20
    assert json.loads(failed.stdout)["first_error"].startswith("13 ")


@pytest.mark.parametrize(
    "line", ["0 1000 -1 -1 0", "0 1000 -1 -1 0 0 0", "0 1000 -1 -1 0 high", "0 -1 -1 -1 0 0", "-1 1000 -1 -1 0 0", ""]
)
def test_a_malformed_trace_names_its_line(line: str, request_file: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(f"0 1000 -1 -1 0 0\n{line}\n")
    done = run("starling-replay", "127.0.0.1:1", PREDICT, request_file, trace)
    assert done.returncode == 1
    assert f'{trace}:2: found "{line}"' in done.stderr


def test_arguments_that_cannot_work_are_named(node: RunningNode, request_file: Path, tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace", [Arrival(0, 1_000)])
    empty = tmp_path / "empty"
    empty.touch()
    missing = tmp_path / "missing"

    def says(program: str, *arguments: object) -> str:
        done = run(program, *arguments)
        assert done.returncode in (1, 2)
        assert not done.stdout
        return done.stderr

    assert "usage" in says("starling-replay", node.target)
    assert "no server at 127.0.0.1:1" in says("starling-replay", "127.0.0.1:1", PREDICT, request_file, trace)
    assert '"nowhere" is not HOST:PORT' in says("starling-replay", "nowhere", PREDICT, request_file, trace)
    assert f"{missing} cannot be read" in says("starling-replay", node.target, PREDICT, missing, trace)
    assert f"{missing} cannot be read" in says("starling-replay", node.target, PREDICT, request_file, missing)
    assert f"{empty} has no arrivals" in says("starling-replay", node.target, PREDICT, request_file, empty)
    folder = tmp_path / "no-folder" / "outcomes"
    assert f"{folder} cannot be written" in says("starling-replay", node.target, PREDICT, request_file, trace, folder)
    assert "usage" in says("starling-load", node.target)
    assert 'OUTSTANDING is "many"' in says("starling-load", node.target, PREDICT, request_file, "many", 1)
    assert 'SECONDS is "-1"' in says("starling-load", node.target, PREDICT, request_file, 1, -1)
    assert "no server at 127.0.0.1:1" in says("starling-load", "127.0.0.1:1", PREDICT, request_file, 1, 1)
