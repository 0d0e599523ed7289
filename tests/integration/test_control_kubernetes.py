"""`starling control` in a cluster: agents are served by the pods of a service, also when the API server is away."""

from __future__ import annotations

import asyncio
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc

from mesh.certs import LOCAL_HOSTS, CertStore, Identity, Role
from mesh.gateway import GatewaySite, bootstrap, envoy_program, find_envoy, wait_healthy
from mesh.local_mesh import control_program
from mesh.supervisor import Supervisor
from services.client import AsyncClient
from services.host import Address
from tests.support.fake_kubernetes import FakeKubernetes, make_endpoint, make_slice
from tests.support.node import running_node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio

_ANY = Address("127.0.0.1", 0)
_LIMIT_S = 30.0


async def test_agents_are_served_by_the_pods_of_a_service(tmp_path: Path, repository: Path) -> None:
    store, now = CertStore(tmp_path / "certs"), datetime.now(UTC)
    store.create("starling", now)
    api = store.issue(Identity(Role.CONTROL, "api"), now, hosts=LOCAL_HOSTS)
    account = tmp_path / "account"
    account.mkdir()
    for name, content in {"token": b"pod", "namespace": b"robots", "ca.crt": (api / "ca.crt").read_bytes()}.items():
        (account / name).write_bytes(content)
    fake = FakeKubernetes()
    fake.token = "pod"
    with running_node(tmp_path / "node", repository, "--model", "echo") as node:
        port = {"ports": [{"name": "grpc", "port": node.port}]}
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "127.0.0.1"), **port))
        async with fake.serve(api) as url, Supervisor() as supervisor:
            flags = ("--kubernetes-service", "nodes=edge", "--kubernetes-api", url)
            flags += ("--kubernetes-account", str(account))
            (control,) = await supervisor.start([control_program(_ANY, _ANY, flags)])
            address = Address.parse(control.facts["grpc"])
            site = GatewaySite("gateway", _ANY, address)
            (gateway,) = await supervisor.start([envoy_program(find_envoy(), bootstrap(site), tmp_path)])
            assert not await wait_healthy(Address.parse(gateway.facts["admin"]), ["node-0"], _LIMIT_S)
            async with AsyncClient(gateway.facts["grpc"]) as client:
                frame = {"x0": np.zeros((1, 64), np.float32)}
                await client.predict("echo", frame, deadline_s=_LIMIT_S)

                going = make_endpoint("node-1", "127.0.0.9", ready=False, serving=True, terminating=True)
                fake.put(make_slice("nodes-a", make_endpoint("node-0", "127.0.0.1"), going, **port))
                await until_healthy(address, {"node-0": "SERVING", "node-1": "DRAINING"})
                fake.token = "somebody-else"
                fake.break_off()
                assert await asyncio.to_thread(wait_until, lambda: _failures(control.facts["metrics"]) > 0)
                await client.predict("echo", frame, deadline_s=_LIMIT_S)


async def until_healthy(control: Address, healths: dict[str, str]) -> None:
    """Waits until the control plane gives gateways these nodes."""
    async with grpc.aio.insecure_channel(str(control)) as channel, asyncio.timeout(_LIMIT_S):
        stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
        found: dict[str, str] = {}
        while found != healths:
            seen = await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=_LIMIT_S)
            found = {
                weight.node: control_service_pb2.NodeHealth.Name(weight.health).removeprefix("NODE_HEALTH_")
                for viewpoint in seen.viewpoints
                for weight in viewpoint.weights
            }


def _failures(metrics: str) -> float:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=_LIMIT_S) as reply:
        lines = reply.read().decode().splitlines()
    name = 'starling_control_service_failures_total{service="robots/nodes"} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))
