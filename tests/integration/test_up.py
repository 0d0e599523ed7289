"""`starling up` as a user runs it: says where to call, stays, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.client import Client, Tls, Unavailable
from tests.support.fake_up import read_until, running
from tests.support.processes import find_processes, wait_for_none


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_mesh_stays_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as process:
        panel = read_until(process, "starling mesh status")
        address = re.search(r"gateway\s+(127\.0\.0\.1:\d+)", panel)
        assert address is not None, panel
        with grpc.insecure_channel(address[1]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert "cloud-1" in panel
        assert f"grpcurl -plaintext {address[1]} list" in panel
        control = re.search(r"starling mesh status --control (127\.0\.0\.1:\d+)", panel)
        assert control is not None, panel
        command = [sys.executable, "-m", "services.host.cli", "mesh", "status", "--control", control[1]]
        status = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "cloud-1" in status
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert "stopping" in out
    assert wait_for_none(str(tmp_path)) == {}


def test_a_control_plane_whose_port_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tmp_path, "--control", f"127.0.0.1:{port}") as process:
            out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "`--control 127.0.0.1:" in err
    assert "starting" not in out


def test_a_node_that_leaves_is_told_and_the_mesh_stays(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        read_until(process, "Ctrl-C stops it")
        (pid,) = find_processes("--name edge-2").keys() & find_processes(str(tmp_path)).keys()
        os.kill(pid, signal.SIGKILL)
        said = read_until(process, "edge-2 ended")
        assert "edge-2 ended with status -9; it stays away" in said
        assert process.poll() is None


def test_a_gateway_that_ends_ends_the_mesh(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        read_until(process, "Ctrl-C stops it")
        (pid,) = (pid for pid, command in find_processes(str(tmp_path)).items() if "--admin-address-path" in command)
        os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert err.startswith("gateway ended with signal 9 while running")
    assert wait_for_none(str(tmp_path)) == {}


def test_a_control_plane_that_ends_is_started_again(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        panel = read_until(process, "Ctrl-C stops it")
        address = re.search(r"control\s+(127\.0\.0\.1:\d+)", panel)
        assert address is not None, panel
        (pid,) = (pid for pid in find_processes("services.host.cli control") if read_parent(pid) == process.pid)
        os.kill(pid, signal.SIGKILL)
        said = read_until(process, "control ended")
        assert "control ended with status -9; agents are served on while it starts again" in said
        with grpc.insecure_channel(address[1]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def read_parent(pid: int) -> int:
    """Returns the id of the process that started another one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_mesh_of_no_nodes_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, "--edges", "0", "--clouds", "0") as process:
        _, err = process.communicate(timeout=30)
        assert process.returncode != 0
        assert "a mesh has at least one node" in err


def test_a_model_that_another_repository_lacks_is_not_pulled_elsewhere(tmp_path: Path) -> None:
    with running(tmp_path, "--model", "nanodat") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"found no {tmp_path}/repository/nanodat; put the model there, or leave --repository out")


def test_a_model_of_another_repository_may_describe_itself(tmp_path: Path) -> None:
    (tmp_path / "repository" / "plain" / "1").mkdir(parents=True)
    with running(tmp_path, "--model", "plain") as process:
        assert "plain" in read_until(process, "starling mesh status")


def test_a_secure_mesh_says_how_to_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    certs = tmp_path / "certs"
    with running(tmp_path, "--secure", "--certs", str(certs)) as process:
        said = read_until(process, "starling certs rotate")
        command = next(line for line in said.splitlines() if line.startswith("starling call nanodet")).split()
        flags = dict(zip(command[3::2], command[4::2], strict=True))
        tls = Tls(ca=flags["--ca"], cert=flags["--cert"], key=flags["--key"], token=flags["--token-file"])
        frame = {"frame": np.zeros((1, 8, 8, 3), np.uint8)}
        with Client(flags["--target"], tls=tls) as client:
            assert client.predict("nanodet", frame, deadline_s=10).model == "nanodet"
        with Client(flags["--target"]) as client, pytest.raises(Unavailable):
            client.predict("nanodet", frame, deadline_s=10)
        assert "PRIVATE" not in said
        assert (certs / "tokens" / "dev.jwt").read_text().strip() not in said
