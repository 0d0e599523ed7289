"""`starling gateway` as an operator runs it: beside a control plane that is elsewhere, or not there yet."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc

from mesh.certs import LOCAL_HOSTS, CertStore, Identity, Role
from mesh.gateway import find_envoy
from mesh.local_mesh import control_program
from mesh.local_security import prepare_security
from mesh.program import Program, parse_ready_line
from mesh.supervisor import Supervisor
from services.client import AsyncClient, StarlingError
from services.host import Address
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio

_ANY = Address("127.0.0.1", 0)
_COMMAND = (sys.executable, "-P", "-m", "services.host.cli", "gateway")
_FAKE_NODE = Path(__file__).parents[1] / "support" / "fake_node.py"
_WAIT_S = 60.0


@asynccontextmanager
async def gateway(control: Address, *flags: str) -> AsyncIterator[Process]:
    words = ("--control", str(control), "--listen", str(_ANY), *flags)
    process = await asyncio.create_subprocess_exec(*_COMMAND, *words, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def read_ready(process: Process) -> str:
    """Returns where it listens, once it says that it is ready."""
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _WAIT_S)
    facts = parse_ready_line(line.decode())
    assert facts is not None, line
    return facts["grpc"]


async def see(channel: grpc.aio.Channel) -> Any:
    stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
    return await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=20, wait_for_ready=True)


async def test_it_waits_for_its_control_plane_and_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    async with Supervisor() as supervisor:
        (control,) = await supervisor.start([control_program(_ANY, _ANY)])
        address = Address.parse(control.facts["grpc"])
        again = control_program(address, _ANY)
        await control.kill()
        async with gateway(
            address, "--name", "door", "--viewpoint", "hall-2", "--out", str(tmp_path / "door")
        ) as process:
            assert process.stderr is not None
            line = await asyncio.wait_for(process.stderr.readline(), _WAIT_S)
            assert line.decode() == f"waiting for the control plane at {address}\n"
            await supervisor.start([again])
            target = await read_ready(process)
            words = ["--name", "far-1", "--tier", "cloud", "--grpc", str(_ANY), "--repository", str(tmp_path)]
            node = (sys.executable, str(_FAKE_NODE), *words, "--control", str(address))
            await supervisor.start([Program("far-1", node, ready_timeout_s=_WAIT_S)])

            async def answers() -> bool:
                try:
                    frame = np.zeros((1, 8, 8, 3), np.uint8)
                    return (await client.predict("nanodet-small", {"frame": frame}, deadline_s=10)).node == "far-1"
                except StarlingError:
                    return False

            async with AsyncClient(target) as client, grpc.aio.insecure_channel(str(address)) as channel:
                await wait_for(answers)
                (seen,) = (await see(channel)).gateways
            assert (seen.name, seen.viewpoint) == ("door", "hall-2")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), _WAIT_S) == 0
            assert (tmp_path / "door" / "gateway.json").exists()


async def test_with_certificates_it_is_known_to_a_secure_control_plane(tmp_path: Path) -> None:
    certs, run = tmp_path / "certs", tmp_path / "run"
    run.mkdir()
    security = prepare_security(certs, run, [], datetime.now(UTC))
    flags = ("--certs", str(security.control_certs), "--security", str(security.write(run / "security.json")))
    mine = security.plan.certificates
    async with Supervisor() as supervisor:
        (control,) = await supervisor.start([control_program(_ANY, _ANY, flags)])
        address = Address.parse(control.facts["grpc"])
        async with gateway(address, "--certs", str(mine), "--secrets", str(security.plan.secrets)) as process:
            await read_ready(process)
            pem = [(security.admin_certs / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
            async with grpc.aio.secure_channel(str(address), grpc.ssl_channel_credentials(*pem)) as channel:
                seen = await see(channel)
            assert [one.name for one in seen.gateways] == ["gateway"]
            assert seen.gateways[0].accepted_count > 0
            assert [alarm for alarm in seen.alarms if "no node serves" not in alarm] == []


async def test_somebody_elses_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    store = CertStore(tmp_path / "certs")
    store.create("starling", datetime.now(UTC))
    other = Identity(Role.NODE, "edge-1")
    store.issue(other, datetime.now(UTC), hosts=LOCAL_HOSTS)
    files = ("--certs", str(store.folder(other)), "--secrets", str(tmp_path / "secrets"))
    async with gateway(_ANY.with_port(18000), *files) as process:
        _, error = await asyncio.wait_for(process.communicate(), _WAIT_S)
    assert process.returncode == 1
    assert "is of spiffe://starling/node/edge-1; the control plane expects" in error.decode()
    assert "starling certs issue gateway/gateway" in error.decode()


async def test_what_envoy_starts_from_is_shown_and_envoy_takes_it(tmp_path: Path) -> None:
    words = ("--show", "--control", "control.example.com:18000", "--listen", "0.0.0.0:50051", "--name", "door/1")
    done = await asyncio.to_thread(subprocess.run, [*_COMMAND, *words], capture_output=True, text=True, timeout=_WAIT_S)
    start = json.loads(done.stdout)
    assert start["node"]["id"] == "door/1"
    assert start["node"]["metadata"]["starling"] == {"listen": "0.0.0.0:50051", "viewpoint": ""}
    path = tmp_path / "start.json"
    path.write_text(done.stdout)
    command = [str(find_envoy()), "--mode", "validate", "-c", str(path), "-l", "warning"]
    validated = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=_WAIT_S)
    assert validated.returncode == 0, validated.stderr
