"""The control plane of a secure mesh: who may speak to it, for whom, and what a stranger is told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc
from starling.mesh.v1 import node_service_pb2 as nodes_pb
from starling.mesh.v1 import node_service_pb2_grpc as nodes_grpc

from mesh.certs import LOCAL_HOSTS, Authority, CertStore, Identity, Role, Scope
from mesh.child import Child
from mesh.local_mesh import LocalMesh, MeshPlan, control_program, start_mesh
from mesh.supervisor import Supervisor
from services.client import AsyncClient, Tls
from services.host import Address
from services.predict._dataplane import Link, LinkTls
from tests.support.node import RunningNode, node_flags
from tests.support.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

_ANY = Address("127.0.0.1", 0)
_CONTROL = Identity(Role.CONTROL, "control")
_GATEWAY = Identity(Role.GATEWAY, "gateway")
_ADMIN = Identity(Role.ADMIN, "admin")
_AGENT = Identity(Role.AGENT, "drone-7")
_EDGE_1, _EDGE_2 = Identity(Role.NODE, "edge-1"), Identity(Role.NODE, "edge-2")
_CALL_S = 20.0


@dataclass(frozen=True)
class Control:
    """A control plane that asks who calls, and everybody's certificates."""

    address: Address
    metrics: str
    store: CertStore
    child: Child

    def connect(self, holder: Identity | None, store: CertStore | None = None) -> grpc.aio.Channel:
        """Returns a channel of a holder of a certificate, or of somebody without one."""
        return connect(self.address, store or self.store, holder, self.store)

    def count(self, service: str) -> float:
        """Returns how many callers of a service were refused."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=_CALL_S) as reply:
            lines = reply.read().decode().splitlines()
        name = f'starling_control_callers_refused_total{{service="{service}"}} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def connect(
    address: Address, store: CertStore, holder: Identity | None, trusted: CertStore | None = None
) -> grpc.aio.Channel:
    ca = ((trusted or store).root / "trust" / "ca.crt").read_bytes()
    pair = [(store.folder(holder) / name).read_bytes() for name in ("tls.key", "tls.crt")] if holder else [None, None]
    # Each its own connection: gRPC would share one between channels that look alike.
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(str(address), grpc.ssl_channel_credentials(ca, *pair), options)


def make_store(folder: Path) -> CertStore:
    store, now = CertStore(folder), datetime.now(UTC)
    store.create("starling", now)
    for holder in (_CONTROL, _GATEWAY, _ADMIN, _AGENT, _EDGE_1, _EDGE_2):
        store.issue(holder, now, hosts=(*LOCAL_HOSTS, holder.name) if holder.role.serves else ())
    return store


@asynccontextmanager
async def running(folder: Path, store: CertStore) -> AsyncIterator[Control]:
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start([control_program(_ANY, _ANY, ("--certs", str(store.folder(_CONTROL))))])
        yield Control(Address.parse(child.facts["grpc"]), child.facts["metrics"], store, child)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def control(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Control]:
    folder = tmp_path_factory.mktemp("control")
    async with running(folder, make_store(folder / "certs")) as control:
        yield control


def describe(name: str) -> nodes_pb.Node:
    return nodes_pb.Node(name=name, tier=nodes_pb.TIER_EDGE, grpc_address="127.0.0.1:9001")


async def register(channel: grpc.aio.Channel, name: str, request_id: str = "start-1") -> str:
    stub: Any = nodes_grpc.NodeServiceStub(channel)
    request = nodes_pb.RegisterNodeRequest(node=describe(name), request_id=request_id)
    response = await stub.RegisterNode(request, timeout=_CALL_S)
    return str(response.lease_id)


async def see(channel: grpc.aio.Channel) -> Any:
    stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
    return await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=_CALL_S, wait_for_ready=True)


async def refused(call: Any) -> str:
    """Waits for a call to be refused for who makes it; returns the words."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED, error
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(details).details[0].Unpack(info)  # type: ignore[arg-type]
    assert info.reason == "NOT_ALLOWED"
    return error.details() or ""


async def test_a_node_registers_under_its_own_name_and_leaves(control: Control) -> None:
    async with control.connect(_EDGE_1) as channel, control.connect(_ADMIN) as admin:
        lease = await register(channel, "edge-1")
        assert [node.name for node in (await see(admin)).nodes] == ["edge-1"]
        await nodes_grpc.NodeServiceStub(channel).DeregisterNode(
            nodes_pb.DeregisterNodeRequest(lease_id=lease), timeout=_CALL_S
        )
        assert list((await see(admin)).nodes) == []


async def test_a_node_cannot_take_the_name_of_another(control: Control) -> None:
    before = await asyncio.to_thread(control.count, "starling.mesh.v1.NodeService")
    async with control.connect(_EDGE_2) as channel, control.connect(_ADMIN) as admin:
        text = await refused(register(channel, "edge-1"))
        assert text == (
            "spiffe://starling/node/edge-2 may not speak for node 'edge-1'; a node speaks for itself only, "
            "with a certificate of spiffe://starling/node/edge-1"
        )
        seen = await see(admin)
    assert list(seen.nodes) == []
    assert any(text in alarm for alarm in seen.alarms)
    assert await asyncio.to_thread(control.count, "starling.mesh.v1.NodeService") == before + 1


async def test_a_lease_is_worth_nothing_to_another_node(control: Control) -> None:
    async with control.connect(_EDGE_1) as owner, control.connect(_EDGE_2) as thief, control.connect(_ADMIN) as admin:
        lease = await register(owner, "edge-1")
        stub: Any = nodes_grpc.NodeServiceStub(thief)
        header = nodes_pb.ReportLoadRequest(header=nodes_pb.ReportLoadHeader(lease_id=lease))
        stream = stub.ReportLoad(timeout=_CALL_S)
        await stream.write(header)
        assert "may not speak for node 'edge-1'" in await refused(stream.read())
        goodbye = nodes_pb.DeregisterNodeRequest(lease_id=lease)
        assert "may not speak for node 'edge-1'" in await refused(stub.DeregisterNode(goodbye, timeout=_CALL_S))
        assert [node.name for node in (await see(admin)).nodes] == ["edge-1"]
        await nodes_grpc.NodeServiceStub(owner).DeregisterNode(goodbye, timeout=_CALL_S)


@pytest.mark.parametrize("holder", [_AGENT, _GATEWAY, _ADMIN, _CONTROL], ids=str)
async def test_only_nodes_register(control: Control, holder: Identity) -> None:
    async with control.connect(holder) as channel:
        text = await refused(register(channel, holder.name))
    assert "expected a certificate of spiffe://starling/node/NAME" in text


@pytest.mark.parametrize("holder", [_AGENT, _GATEWAY, _EDGE_1], ids=str)
async def test_only_admins_look_and_drain(control: Control, holder: Identity) -> None:
    async with control.connect(holder) as channel:
        await refused(see(channel))
        stub: Any = nodes_grpc.NodeServiceStub(channel)
        await refused(stub.DrainNode(nodes_pb.DrainNodeRequest(name="edge-1"), timeout=_CALL_S))
        await refused(stub.ListNodes(nodes_pb.ListNodesRequest(), timeout=_CALL_S))


@pytest.mark.parametrize("holder", [_AGENT, _EDGE_1, _ADMIN], ids=str)
async def test_only_gateways_are_told_where_nodes_are(control: Control, holder: Identity) -> None:
    async with control.connect(holder) as channel:
        stub: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        # Nothing is sent: a call that is refused before its first message would break in the middle of it.
        for stream in (stub.DeltaAggregatedResources(timeout=_CALL_S), stub.StreamAggregatedResources(timeout=_CALL_S)):
            text = await refused(stream.read())
            assert "expected a certificate of spiffe://starling/gateway/NAME" in text


@pytest.mark.parametrize(("name", "allowed"), [("gateway", True), ("gateway/pod-3", True), ("cloud", False)])
async def test_a_gateway_speaks_for_itself(control: Control, name: str, allowed: bool) -> None:
    async with control.connect(_GATEWAY) as channel:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster")
        request.node.id = name
        request.node.metadata.update({"starling": {"listen": "127.0.0.1:1"}})
        stub: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel)
        stream = stub.DeltaAggregatedResources(timeout=_CALL_S)
        await stream.write(request)
        if allowed:
            assert (await stream.read()).type_url == request.type_url
            stream.cancel()
        else:
            assert "may not speak for gateway 'cloud'" in await refused(stream.read())


async def test_a_gateway_cannot_report_in_the_name_of_another(control: Control) -> None:
    async with control.connect(_GATEWAY) as channel:
        message = als_pb2.StreamAccessLogsMessage()
        message.identifier.node.id = "cloud"
        stub: Any = als_pb2_grpc.AccessLogServiceStub(channel)
        call = stub.StreamAccessLogs(timeout=_CALL_S)
        await call.write(message)
        assert "may not speak for gateway 'cloud'" in await refused(call)


async def test_health_is_for_every_holder(control: Control) -> None:
    for holder in (_AGENT, _EDGE_1, _GATEWAY, _ADMIN):
        async with control.connect(holder) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def unreachable(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_strangers_do_not_get_past_the_handshake(control: Control, tmp_path: Path) -> None:
    other = make_store(tmp_path)
    ended = Identity(Role.ADMIN, "ended")
    control.store.issue(ended, datetime.now(UTC) - timedelta(days=2), lifetime=timedelta(days=1))
    async with grpc.aio.insecure_channel(str(control.address)) as plain:
        await unreachable(plain)
    async with control.connect(None) as nobody:
        await unreachable(nobody)
    async with control.connect(_ADMIN, other) as foreign:
        await unreachable(foreign)
    async with control.connect(ended) as late:
        await unreachable(late)


async def test_the_trust_domain_counts_beside_the_authority(control: Control) -> None:
    # An authority may sign for other domains too.
    ca = control.store.root / "ca"
    key = serialization.load_pem_private_key((ca / "ca.key").read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    authority = Authority("elsewhere", x509.load_pem_x509_certificate((ca / "ca.crt").read_bytes()), key)
    admin = authority.issue(_ADMIN, (), datetime.now(UTC), timedelta(days=1))
    pem = ((ca / "ca.crt").read_bytes(), admin.key, admin.certificate)
    async with grpc.aio.secure_channel(str(control.address), grpc.ssl_channel_credentials(*pem)) as channel:
        assert "spiffe://elsewhere/admin/admin may not call" in await refused(see(channel))


async def run_mesh(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "services.host.cli", "mesh", *words]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_a_person_looks_with_a_certificate_of_an_admin(control: Control) -> None:
    where = ("status", "--once", "--control", str(control.address))
    status, said = await run_mesh(*where, "--certs", str(control.store.folder(_ADMIN)))
    assert (status, "no gateway is connected" in said) == (0, True), said
    status, said = await run_mesh(*where, "--certs", str(control.store.folder(_AGENT)))
    assert status == 1
    assert "spiffe://starling/agent/drone-7 may not call /starling.mesh.v1.ControlService/GetMesh" in said
    status, said = await run_mesh(*where)
    assert status == 1
    assert "--certs DIR" in said


@pytest.mark.parametrize("holder", [_EDGE_1, _GATEWAY], ids=str)
async def test_it_does_not_start_as_somebody_else(tmp_path: Path, holder: Identity) -> None:
    folder = make_store(tmp_path).folder(holder)
    command = [sys.executable, "-m", "services.host.cli", "control", "--listen", str(_ANY), "--certs", str(folder)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"the certificate in {folder} is of spiffe://starling/{holder}; gateways and nodes expect" in done.stderr


async def test_a_new_authority_reaches_it_while_it_serves(tmp_path: Path) -> None:
    store = make_store(tmp_path / "certs")
    async with running(tmp_path, store) as control, control.connect(_EDGE_1) as lasting:
        lease = await register(lasting, "edge-1")
        store.create("starling", datetime.now(UTC), replace=True)
        async with asyncio.timeout(_CALL_S):
            while True:
                async with control.connect(_ADMIN) as admin:
                    try:
                        assert [node.name for node in (await see_once(admin)).nodes] == ["edge-1"]
                        break
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017  # it has not seen it yet
        # A connection that exists keeps what it began with.
        request = nodes_pb.DeregisterNodeRequest(lease_id=lease)
        await nodes_grpc.NodeServiceStub(lasting).DeregisterNode(request, timeout=_CALL_S)


async def see_once(channel: grpc.aio.Channel) -> Any:
    stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
    return await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=_CALL_S)


@asynccontextmanager
async def served_by(store: CertStore, holder: Identity) -> AsyncIterator[Address]:
    """Answers health where a control plane is expected, with the certificate of a holder."""
    folder = store.folder(holder)
    pair = (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
    server = grpc.aio.server()
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    ca = (folder / "ca.crt").read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair], ca, require_client_auth=True))
    await server.start()
    yield Address("127.0.0.1", port)
    await server.stop(None)


@pytest.mark.parametrize(
    ("holder", "code"), [(_CONTROL, 0), (_EDGE_2, 14), (_GATEWAY, 14)], ids=["control", "node", "gateway"]
)
async def test_a_node_speaks_to_a_control_plane_only(control: Control, holder: Identity, code: int) -> None:
    folder = control.store.folder(_EDGE_1)
    certificate, key, authorities = ((folder / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt"))
    tls = LinkTls(certificate=certificate, key=key, authorities=authorities, server="spiffe://starling/control/")
    async with served_by(control.store, holder) as address:
        link = Link(str(address), tls)
        reply = await asyncio.to_thread(link.call, "/grpc.health.v1.Health/Check", b"", 5.0)
    assert reply.code == code, reply


async def test_a_node_with_the_certificate_of_another_is_not_registered_and_says_why(
    control: Control, tmp_path: Path, repository: Path
) -> None:
    folder = control.store.folder(_EDGE_2)
    files = ("--tls-cert", "tls.crt"), ("--tls-key", "tls.key"), ("--tls-client-ca", "ca.crt")
    flags = [word for flag, name in files for word in (flag, str(folder / name))]
    flags += ["--model", "echo", "--control", str(control.address), "--name", "edge-1"]
    with RunningNode(tmp_path, node_flags(repository, *flags)) as node:
        words = "spiffe://starling/node/edge-2 may not speak for node 'edge-1'"
        assert await asyncio.to_thread(wait_until, lambda: words in node.log)
        async with control.connect(_ADMIN) as admin:
            seen = await see(admin)
    assert list(seen.nodes) == []
    assert any(words in alarm for alarm in seen.alarms)


@asynccontextmanager
async def whole_mesh(folder: Path, repository: Path) -> AsyncIterator[tuple[LocalMesh, Supervisor]]:
    """Runs real nodes, gateway and control plane with certificates on every connection."""
    plan = MeshPlan(_ANY, repository, ("echo",), 2, 0, 0, folder / "run", certs=folder / "certs")
    async with Supervisor() as supervisor:
        yield await start_mesh(supervisor, plan), supervisor


async def test_renewed_certificates_under_load_lose_neither_node_nor_request(tmp_path: Path, repository: Path) -> None:
    failed: list[BaseException] = []
    async with whole_mesh(tmp_path, repository) as (mesh, supervisor):
        assert mesh.security is not None
        store = mesh.security.store
        token = store.sign_token(
            subject="t", tenant="t", scopes=[Scope.INFER], now=datetime.now(UTC), lifetime=timedelta(hours=1)
        )
        agent = store.folder(Identity(Role.AGENT, "agent"))
        tls = Tls(ca=agent / "ca.crt", cert=agent / "tls.crt", key=agent / "tls.key", token=lambda: token)

        async def press(client: AsyncClient) -> None:
            while True:
                try:
                    await client.predict("echo", {"x0": np.zeros((1, 64), np.float32)}, deadline_s=10)
                except Exception as error:
                    failed.append(error)
                await asyncio.sleep(0.02)

        async with AsyncClient(str(mesh.gateway), tls=tls) as client:
            pressing = asyncio.create_task(press(client))
            control = mesh.control_child
            for _ in range(2):
                # Everybody connects anew, with a certificate that it did not start with.
                await asyncio.to_thread(store.rotate, datetime.now(UTC))
                await control.kill()
                (control,) = await supervisor.start([mesh.control_again])
                await wait_for_mesh(mesh.control, store)
            pressing.cancel()
        assert failed == []


async def wait_for_mesh(address: Address, store: CertStore) -> None:
    """Waits until both nodes have spoken and a gateway has taken its configuration."""
    end_s = time.monotonic() + 60
    seen: Any = None
    while True:
        async with connect(address, store, _ADMIN) as channel:
            try:
                seen = await see_once(channel)
            except grpc.aio.AioRpcError as error:
                seen = error
            else:
                reported = sum(node.HasField("load") for node in seen.nodes)
                if reported == 2 and [gateway.accepted_count > 0 for gateway in seen.gateways] == [True]:
                    return
        assert time.monotonic() < end_s, seen
        await asyncio.sleep(0.1)
