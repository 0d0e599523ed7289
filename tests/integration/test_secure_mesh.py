"""Who gets through the gateway of a secure mesh, who does not, and what they are told: a real Envoy."""

from __future__ import annotations

import base64
import json
import sys
import time
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
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starling.predict.v1 import model_service_pb2 as models_pb2
from starling.predict.v1 import model_service_pb2_grpc as models_grpc

from mesh.certs import AUDIENCE, ISSUER, CertStore, Identity, Role, Scope
from mesh.certs.tokens import build_jwk
from mesh.local_mesh import LocalMesh, MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.client import (
    AsyncClient,
    PermissionDenied,
    Prediction,
    StarlingError,
    Tls,
    Unauthenticated,
    Unavailable,
)
from services.host import Address

_FAKE_NODE = Path(__file__).parents[1] / "support" / "fake_node.py"
_FRAME = {"frame": np.zeros((1, 8, 8, 3), np.uint8)}
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

    def read_tenant(self, node: str) -> str | None:
        tenant: str | None = json.loads((self.root / f"{node}.seen").read_text()).get("x-tenant")
        return tenant


@asynccontextmanager
async def running(root: Path, *, edges: int = 2, **changes: Any) -> AsyncIterator[Secure]:
    plan = MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=root,
        models=(),
        edges=edges,
        clouds=0,
        rtt_ms=0,
        run_dir=root,
        node_command=(sys.executable, str(_FAKE_NODE), "--latency-ms", "1", "--queue-max", "1000"),
        certs=root / "certs",
        **changes,
    )
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
    assert secure.read_tenant(answer.node) == "acme"


async def test_the_token_does_not_reach_the_node(secure: Secure) -> None:
    async with secure.connect(secure.sign()) as client:
        node = (await ask(client)).node
    assert "authorization" not in json.loads((secure.root / f"{node}.seen").read_text())


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
    folder = secure.store.folder(_AGENT)
    pem = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    async with grpc.aio.secure_channel(str(secure.mesh.gateway), grpc.ssl_channel_credentials(*pem)) as channel:
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
    folder = secure.store.folder(_AGENT)
    pem = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    async with grpc.aio.secure_channel(str(secure.mesh.gateway), grpc.ssl_channel_credentials(*pem)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(path)(b"", timeout=5, metadata=[("authorization", f"Bearer {secure.sign()}")])
    assert caught.value.code() is not grpc.StatusCode.UNIMPLEMENTED, "it got to a node"


async def test_a_forged_tenant_has_no_effect(secure: Secure) -> None:
    folder = secure.store.folder(_AGENT)
    pem = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    token = ("authorization", f"Bearer {secure.sign('acme')}")
    from services.client.channel import PREDICT
    from services.client.codec import encode_request
    from services.client.values import Request

    async with grpc.aio.secure_channel(str(secure.mesh.gateway), grpc.ssl_channel_credentials(*pem)) as channel:
        for forged in ([("x-tenant", "gold")], [("x-tenant", "gold"), ("x-tenant", "silver")]):
            request = encode_request(Request(model="nanodet-small", inputs=_FRAME))
            await channel.unary_unary(PREDICT)(request, timeout=5, metadata=[*forged, token])
            seen = {secure.read_tenant(node.name) for node in secure.mesh.nodes if _was_seen(secure, node.name)}
            assert seen == {"acme"}


def _was_seen(secure: Secure, node: str) -> bool:
    return (secure.root / f"{node}.seen").exists()


async def test_health_needs_a_certificate_and_no_token(secure: Secure) -> None:
    folder = secure.store.folder(_AGENT)
    pem = [(folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    async with grpc.aio.secure_channel(str(secure.mesh.gateway), grpc.ssl_channel_credentials(*pem)) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
