"""Who gets through the gateway of a secure mesh, who does not, and what they are told: a real Envoy."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import ssl
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import numpy as np
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starling.predict.v1 import model_service_pb2 as models_pb2
from starling.predict.v1 import model_service_pb2_grpc as models_grpc

from mesh.certs import AUDIENCE, ISSUER, LOCAL_HOSTS, CertStore, Identity, Role, Scope
from mesh.certs.folder import publish
from mesh.certs.tokens import build_jwk
from mesh.gateway import GatewaySite, bootstrap, envoy_program, find_envoy, wait_healthy
from mesh.gateway.security import Rate, secure_control
from mesh.local_mesh import NODE_COMMAND, LocalMesh, MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.client import (
    AsyncClient,
    PermissionDenied,
    Prediction,
    Request,
    ResourceExhausted,
    StarlingError,
    Tls,
    Unauthenticated,
    Unavailable,
)
from services.client.channel import PREDICT
from services.client.codec import encode_request
from services.host import Address
from tests.support.waiting import wait_until

_FAKE_NODE = Path(__file__).parents[1] / "support" / "fake_node.py"
_FRAME = {"frame": np.zeros((1, 8, 8, 3), np.uint8)}
_REQUEST = encode_request(Request(model="nanodet-small", inputs=_FRAME))
_HOUR = timedelta(hours=1)
_AGENT = Identity(Role.AGENT, "agent")
_ADMIN = Identity(Role.ADMIN, "admin")


@dataclass(frozen=True)
class Secure:
    """A mesh, and whatever a caller may hold."""

    mesh: LocalMesh
    root: Path

    @property
    def store(self) -> CertStore:
        assert self.mesh.security is not None
        return self.mesh.security.store

    def sign(self, tenant: str = "acme", *scopes: Scope) -> str:
        return self.store.sign_token(
            subject="test", tenant=tenant, scopes=scopes or [Scope.INFER], now=datetime.now(UTC), lifetime=_HOUR
        )

    def forge(self, algorithm: str = "ES256", **claims: Any) -> str:
        """Returns a token signed with the real key whose claims are wrong, or that is not signed at all."""
        good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "acme", "scope": "infer", "exp": time.time() + 60}
        key = serialization.load_pem_private_key((self.store.root / "ca" / "jwt.key").read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        kid = build_jwk(key.public_key())["kid"]
        payload = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return jwt.encode(payload, key if algorithm == "ES256" else "", algorithm, headers={"kid": kid})

    def tls(self, token: str | None, holder: Identity = _AGENT, store: CertStore | None = None) -> Tls:
        folder = (store or self.store).folder(holder)
        ca = self.store.root / "trust" / "ca.crt"
        return Tls(
            ca=ca, cert=folder / "tls.crt", key=folder / "tls.key", token=None if token is None else (lambda: token)
        )

    def connect(self, token: str | None, holder: Identity = _AGENT) -> AsyncClient:
        return AsyncClient(str(self.mesh.gateway), tls=self.tls(token, holder))

    def open_channel(self) -> grpc.aio.Channel:
        """Returns a plain gRPC channel with an agent's certificate, for what the client would not send."""
        folder = self.store.folder(_AGENT)
        pem = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
        return grpc.aio.secure_channel(str(self.mesh.gateway), grpc.ssl_channel_credentials(*pem))

    def read_headers(self, node: str) -> dict[str, str]:
        """Returns what the last request at a node carried; nothing when there was none."""
        path = self.root / f"{node}.seen"
        headers: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return headers


@asynccontextmanager
async def running(root: Path, *, edges: int = 2, **changes: Any) -> AsyncIterator[Secure]:
    fake = (sys.executable, str(_FAKE_NODE), "--latency-ms", "1", "--queue-max", "1000")
    settings = {"repository": root, "models": (), "node_command": fake, **changes}
    address = Address("127.0.0.1", 0)
    plan = MeshPlan(gateway=address, edges=edges, clouds=0, rtt_ms=0, run_dir=root, certs=root / "certs", **settings)
    async with Supervisor() as supervisor:
        yield Secure(await start_mesh(supervisor, plan), root)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secure]:
    async with running(tmp_path_factory.mktemp("mesh")) as secure:
        yield secure


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(client: AsyncClient) -> Prediction:
    return await client.predict("nanodet-small", _FRAME, deadline_s=5)


async def refused(client: AsyncClient, kind: type[StarlingError]) -> str:
    """Asks, expects to be refused, and returns the words."""
    with pytest.raises(kind) as caught:
        await ask(client)
    assert type(caught.value) is kind, repr(caught.value)
    return caught.value.message


async def test_a_certificate_and_a_token_get_through(secure: Secure) -> None:
    async with secure.connect(secure.sign("acme")) as client:
        answer = await ask(client)
    assert answer.model == "nanodet-small"
    assert secure.read_headers(answer.node)["x-tenant"] == "acme"


async def test_the_token_does_not_reach_the_node(secure: Secure) -> None:
    async with secure.connect(secure.sign()) as client:
        node = (await ask(client)).node
    assert "authorization" not in secure.read_headers(node)


async def test_plain_text_is_refused(secure: Secure) -> None:
    async with AsyncClient(str(secure.mesh.gateway)) as client:
        await refused(client, Unavailable)


async def test_a_caller_without_a_certificate_is_refused(secure: Secure) -> None:
    token = secure.sign()
    async with AsyncClient(
        str(secure.mesh.gateway), tls=Tls(ca=secure.store.root / "trust" / "ca.crt", token=lambda: token)
    ) as client:
        await refused(client, Unavailable)


async def test_a_certificate_of_another_authority_is_refused(secure: Secure, tmp_path: Path) -> None:
    other = CertStore(tmp_path)
    other.create("starling", datetime.now(UTC))
    other.issue(_AGENT, datetime.now(UTC))
    async with AsyncClient(str(secure.mesh.gateway), tls=secure.tls(secure.sign(), store=other)) as client:
        await refused(client, Unavailable)


async def test_a_certificate_that_ended_is_refused(secure: Secure) -> None:
    late = Identity(Role.AGENT, "late")
    secure.store.issue(late, datetime.now(UTC) - timedelta(days=2), lifetime=timedelta(days=1))
    async with secure.connect(secure.sign(), late) as client:
        await refused(client, Unavailable)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": time.time() - 3600}, "expired"),
        ({"exp": None}, "verification fails"),
        ({"iss": "somebody"}, "issuer"),
        ({"aud": "another-service"}, "Audiences"),
        ({"algorithm": "none"}, "not in the form of Header.Payload.Signature"),
    ],
    ids=["expired", "without an end", "issuer", "audience", "unsigned"],
)
async def test_a_token_that_does_not_count_is_refused_with_the_reason(
    secure: Secure, claims: dict[str, Any], words: str
) -> None:
    async with secure.connect(secure.forge(**claims)) as client:
        text = await refused(client, Unauthenticated)
    assert words in text
    assert text.startswith("the token was refused: ")
    assert "authorization: Bearer TOKEN" in text


async def test_a_token_that_says_it_needs_no_signature_is_refused(secure: Secure) -> None:
    _, body, signature = secure.sign().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').rstrip(b"=").decode()
    async with secure.connect(f"{head}.{body}.{signature}") as client:
        assert "[alg] is not supported" in await refused(client, Unauthenticated)


async def test_a_token_signed_with_the_public_key_as_a_password_is_refused(secure: Secure) -> None:
    (key,) = json.loads((secure.store.root / "trust" / "jwks.json").read_text())["keys"]
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "tenant": "acme", "scope": "infer", "exp": time.time() + 60}
    forged = jwt.encode(claims, key["x"], "HS256", headers={"kid": key["kid"]})
    async with secure.connect(forged) as client:
        assert "Jwks doesn't have key to match kid or alg" in await refused(client, Unauthenticated)


async def test_a_caller_cannot_say_that_it_was_checked(secure: Secure) -> None:
    headers = [
        ("authorization", f"Bearer {secure.sign()}"),
        ("x-forwarded-client-cert", "URI=spiffe://starling/admin/admin"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
    ]
    async with secure.open_channel() as channel:
        await channel.unary_unary(PREDICT)(_REQUEST, timeout=5, metadata=headers)
    for node in secure.mesh.nodes:
        seen = secure.read_headers(node.name)
        assert "admin" not in seen.get("x-forwarded-client-cert", "")
        assert "x-envoy-upstream-rq-timeout-ms" not in seen


async def test_a_missing_token_is_named(secure: Secure) -> None:
    async with secure.connect(None) as client:
        assert "Jwt is missing" in await refused(client, Unauthenticated)


async def test_a_token_of_another_key_is_refused(secure: Secure, tmp_path: Path) -> None:
    other = CertStore(tmp_path)
    other.create("starling", datetime.now(UTC))
    token = other.sign_token(subject="x", tenant="acme", scopes=[Scope.INFER], now=datetime.now(UTC), lifetime=_HOUR)
    async with secure.connect(token) as client:
        assert "Jwt" in await refused(client, Unauthenticated)


async def test_a_changed_token_is_refused(secure: Secure) -> None:
    head, body, signature = secure.sign("acme").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "tenant": "gold"}).encode()).rstrip(b"=").decode()
    async with secure.connect(f"{head}.{forged}.{signature}") as client:
        assert "verification fails" in await refused(client, Unauthenticated)


async def test_an_oversized_token_is_refused(secure: Secure) -> None:
    token = secure.forge(padding="x" * 20_000)
    async with secure.open_channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await models_grpc.ModelServiceStub(channel).ListModels(
                models_pb2.ListModelsRequest(), timeout=5, metadata=[("authorization", f"Bearer {token}")]
            )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, caught.value
    assert "at most 8192 are read" in (caught.value.details() or "")


async def test_a_scope_that_does_not_cover_the_method_is_refused(secure: Secure) -> None:
    async with secure.connect(secure.sign("acme", Scope.FLEET)) as client:
        text = await refused(client, PermissionDenied)
    assert "spiffe://starling/agent/agent" in text
    assert "/starling.predict.v1.PredictService/Predict" in text


@pytest.mark.parametrize("name", ["load", "unload"])
async def test_only_admins_change_models(secure: Secure, name: str) -> None:
    holders: Sequence[tuple[Identity, Sequence[Scope], bool]] = [
        (_AGENT, [Scope.INFER], False),
        (_AGENT, [Scope.ADMIN], False),  # a leaked token is no admin
        (_ADMIN, [Scope.INFER], False),  # neither is a certificate alone
        (_ADMIN, [Scope.ADMIN], True),
    ]
    for holder, scopes, allowed in holders:
        async with secure.connect(secure.sign("ops", *scopes), holder) as client:
            with pytest.raises(StarlingError) as caught:
                await getattr(client, name)("nanodet-small")
        # The node behind it has no such method: being told so by the node means to have got through.
        assert caught.value.status == ("UNIMPLEMENTED" if allowed else "PERMISSION_DENIED"), (holder, scopes)


async def test_a_node_certificate_is_no_agent(secure: Secure) -> None:
    async with secure.connect(secure.sign(), Identity(Role.NODE, "edge-1")) as client:
        await refused(client, PermissionDenied)


@pytest.mark.parametrize("path", ["/starling.predict.v1.PredictService/../ModelService/LoadModel", "//x", "/a%2Fb"])
async def test_a_path_written_differently_opens_nothing(secure: Secure, path: str) -> None:
    async with secure.open_channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"", timeout=5, metadata=[("authorization", f"Bearer {secure.sign()}")])
    assert caught.value.code() is not grpc.StatusCode.UNIMPLEMENTED, "it got to a node"


async def test_a_forged_tenant_has_no_effect(secure: Secure) -> None:
    token = ("authorization", f"Bearer {secure.sign('acme')}")
    async with secure.open_channel() as channel:
        for forged in ([("x-tenant", "gold")], [("x-tenant", "gold"), ("x-tenant", "silver")]):
            await channel.unary_unary(PREDICT)(_REQUEST, timeout=5, metadata=[*forged, token])
            seen = [secure.read_headers(node.name) for node in secure.mesh.nodes]
            assert {headers["x-tenant"] for headers in seen if headers} == {"acme"}


async def test_health_needs_a_certificate_and_no_token(secure: Secure) -> None:
    async with secure.open_channel() as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_tenant_at_fifty_times_its_rate_costs_another_nothing(tmp_path: Path) -> None:
    rate, seconds = Rate(per_s=10, burst=10), 3.0
    refusals: list[ResourceExhausted] = []
    async with running(tmp_path, rate=rate) as secure:

        async def send(client: AsyncClient, per_s: float) -> Counter[str]:
            """Asks on a schedule, whatever comes back, and counts what does."""
            results: Counter[str] = Counter()

            async def one() -> None:
                try:
                    await ask(client)
                    results["answered"] += 1
                except ResourceExhausted as error:
                    refusals.append(error)
                    results["refused"] += 1

            start = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as tasks:
                for index in range(int(per_s * seconds)):
                    due = start + index / per_s
                    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                    tasks.create_task(one())
            results["took_ms"] = round(1000 * (asyncio.get_running_loop().time() - start))
            return results

        async with secure.connect(secure.sign("noisy")) as noisy, secure.connect(secure.sign("quiet")) as quiet:
            await ask(quiet)
            flood, other = await asyncio.gather(send(noisy, 50 * rate.per_s), send(quiet, 0.8 * rate.per_s))
        assert other["answered"] == int(0.8 * rate.per_s * seconds)
        assert other["refused"] == 0
        assert rate.per_s * seconds <= flood["answered"] <= rate.burst + rate.per_s * flood["took_ms"] / 1e3 + 1
        assert flood["answered"] + flood["refused"] == 50 * rate.per_s * seconds
        assert {error.reason for error in refusals} == {"TENANT_OVER_RATE"}
        assert "tenant noisy asks more often" in refusals[0].message
        assert refusals[0].retry_delay_s == pytest.approx(0.1)


async def test_a_rate_counts_over_two_gateways_together(tmp_path: Path) -> None:
    rate = Rate(per_s=1, burst=10)
    rates = {"rate": rate, "rate_by_tenant": {"gold": Rate(1000, 1000)}, "rate_everywhere": True}
    async with running(tmp_path, **rates) as secure, Supervisor() as supervisor:
        assert secure.mesh.security is not None
        site = GatewaySite("gateway/2", Address("127.0.0.1", 0), secure.mesh.control)
        start = secure_control(bootstrap(site), secure.mesh.security.plan)
        folder = tmp_path / "second"
        folder.mkdir()
        (second,) = await supervisor.start([envoy_program(find_envoy(), start, folder)])
        assert not await wait_healthy(Address.parse(second.facts["admin"]), ["edge-1", "edge-2"], 20)
        both = (secure.mesh.gateway, Address.parse(second.facts["grpc"]))

        async def count(tenant: str) -> tuple[int, list[ResourceExhausted]]:
            """Asks as often as one gateway allows, at each of the two; returns answers and refusals."""
            answered, refusals = 0, []
            for address in both:
                async with AsyncClient(str(address), tls=secure.tls(secure.sign(tenant))) as client:
                    for _ in range(rate.burst):
                        try:
                            await ask(client)
                            answered += 1
                        except ResourceExhausted as error:
                            refusals.append(error)
            return answered, refusals

        # A service that does not answer in 20 ms limits nobody, so on a busy machine it may take another tenant.
        refusals: list[ResourceExhausted] = []
        async with asyncio.timeout(60):
            for number in itertools.count():
                answered, refusals = await count(f"tenant-{number}")
                if refusals:
                    break
        assert answered >= rate.burst
        assert {error.reason for error in refusals} == {"TENANT_OVER_RATE"}
        assert await count("gold") == (2 * rate.burst, [])


async def test_a_node_with_the_certificate_of_another_gets_no_requests(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    store = CertStore(tmp_path / "certs")
    store.create("starling", now)
    real = store.issue(Identity(Role.NODE, "edge-1"), now, hosts=[*LOCAL_HOSTS, "edge-1"])
    stolen = {name: (real / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
    publish(store.folder(Identity(Role.NODE, "edge-2")), stolen, now)
    async with running(tmp_path) as secure, secure.connect(secure.sign()) as client:
        assert secure.mesh.unreached == {"edge-2"}
        assert {(await ask(client)).node for _ in range(30)} == {"edge-1"}


async def test_a_node_that_answers_at_the_address_of_another_gets_no_requests(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    store = CertStore(tmp_path / "certs")
    store.create("starling", now)
    thief = store.issue(Identity(Role.NODE, "thief"), now, hosts=[*LOCAL_HOSTS, "thief"])
    pair = (thief / "tls.key").read_bytes(), (thief / "tls.crt").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], (thief / "ca.crt").read_bytes(), require_client_auth=True)
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    flags = ("--node", f"edge-9=edge@127.0.0.1:{port}")
    async with running(tmp_path, control_flags=flags) as secure, secure.connect(secure.sign()) as client:
        assert {(await ask(client)).node for _ in range(30)} <= {"edge-1", "edge-2"}
        name = "cluster.nodes.ssl.fail_verify_san"
        assert await asyncio.to_thread(wait_until, lambda: _read_stats(secure, name)[name] > 0)
    await server.stop(None)


async def test_renewing_every_certificate_under_load_fails_nothing(tmp_path: Path, repository: Path) -> None:
    frame = {"x0": np.zeros((1, 64), np.float32)}
    failures: list[StarlingError] = []
    answered = 0
    stop = asyncio.Event()
    plan = {"repository": repository, "models": ("echo",), "node_command": NODE_COMMAND}
    async with running(tmp_path, **plan) as secure:
        token = secure.sign()

        async def press(lasting: bool) -> None:
            nonlocal answered
            while not stop.is_set():
                # Connections that exist keep what they began with; new ones see what is new.
                async with secure.connect(token) as client:
                    for _ in range(1000 if lasting else 3):
                        if stop.is_set():
                            break
                        try:
                            await client.predict("echo", frame, deadline_s=5)
                            answered += 1
                        except StarlingError as error:
                            failures.append(error)

        async with asyncio.TaskGroup() as tasks:
            for lasting in (True, False, False):
                tasks.create_task(press(lasting))
            for _ in range(3):
                before = await asyncio.to_thread(_served_serial, secure)
                await asyncio.to_thread(secure.store.rotate, datetime.now(UTC))
                assert await asyncio.to_thread(wait_until, lambda old=before: _served_serial(secure) != old)  # type: ignore[misc]
                target = answered + 100
                assert await asyncio.to_thread(wait_until, lambda least=target: answered >= least)  # type: ignore[misc]
            stop.set()
    assert not failures, failures[0]
    assert answered > 300


def _read_stats(secure: Secure, name: str) -> dict[str, int]:
    """Returns Envoy's counters whose name contains a word."""
    with urllib.request.urlopen(f"http://{secure.mesh.admin}/stats?filter={name}", timeout=5) as reply:
        lines = reply.read().decode().splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines)}


def _served_serial(secure: Secure) -> int:
    """Returns the serial number of the certificate that the gateway shows a new connection."""
    folder = secure.store.folder(_AGENT)
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    context.set_alpn_protocols(["h2"])
    address = (secure.mesh.gateway.host, secure.mesh.gateway.port)
    with (
        socket.create_connection(address, 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


async def test_a_new_key_for_tokens_reaches_the_gateway_and_fails_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as secure:
        before = secure.sign()
        secure.store.rotate_signing_key(datetime.now(UTC))
        after = secure.sign()
        async with secure.connect(before) as old, secure.connect(after) as new, asyncio.timeout(20):
            while True:
                await ask(old)
                try:
                    await ask(new)
                    break
                except Unauthenticated as error:
                    assert "match kid" in error.message  # noqa: PT017  # until the gateway has heard of it
            await ask(old)
