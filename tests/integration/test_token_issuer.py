"""A gateway takes the keys of tokens from an issuer on the web, and only from the one that it was told of."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from mesh.certs import AUDIENCE, ISSUER, CertStore, Identity, Role, Scope
from mesh.gateway.security import RemoteKeys, SecurityPlan, further_clusters
from mesh.gateway.security.access import check_token
from services.host import Address
from tests.support.security import PLAN
from tests.support.static_gateway import PREDICT, MirrorNode, static_gateway

pytestmark = pytest.mark.asyncio

_ISSUER = Identity(Role.CONTROL, "issuer")


@pytest.fixture
def store(tmp_path: Path) -> CertStore:
    store = CertStore(tmp_path / "certs")
    store.create("starling", datetime.now(UTC))
    store.issue(_ISSUER, datetime.now(UTC), hosts=["localhost"])
    return store


@contextmanager
def issuer(store: CertStore) -> Iterator[int]:
    """Serves the public keys over HTTPS; yields the port."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (store.root / "trust" / "jwks.json").read_bytes()
            self.send_response(200 if self.path == "/keys" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(store.folder(_ISSUER) / "tls.crt", store.folder(_ISSUER) / "tls.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def build_plan(store: CertStore, port: int, host: str) -> SecurityPlan:
    keys = RemoteKeys(f"https://{host}:{port}/keys", Address("127.0.0.1", port), store.root / "trust" / "ca.crt")
    return replace(PLAN, keys=keys, trust_domain="starling", issuer=ISSUER, audience=AUDIENCE)


def sign(store: CertStore) -> tuple[str, str]:
    now, hour = datetime.now(UTC), timedelta(hours=1)
    token = store.sign_token(subject="x", tenant="acme", scopes=[Scope.INFER], now=now, lifetime=hour)
    return ("authorization", f"Bearer {token}")


async def test_a_token_of_the_issuer_counts_and_one_of_another_does_not(store: CertStore, tmp_path: Path) -> None:
    other = CertStore(tmp_path / "other")
    other.create("starling", datetime.now(UTC))
    with issuer(store) as port:
        plan = build_plan(store, port, "localhost")
        async with (
            MirrorNode() as node,
            static_gateway(tmp_path, node, [check_token(plan)], further_clusters(plan)) as channel,
        ):
            assert await channel.unary_unary(PREDICT)(b"x", timeout=10, metadata=[sign(store)]) == b"x"
            assert node.headers["x-tenant"] == "acme"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(PREDICT)(b"x", timeout=10, metadata=[sign(other)])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_whoever_only_sits_at_the_address_of_the_issuer_is_not_believed(store: CertStore, tmp_path: Path) -> None:
    with issuer(store) as port:
        plan = build_plan(store, port, "login.example.com")
        async with (
            MirrorNode() as node,
            static_gateway(tmp_path, node, [check_token(plan)], further_clusters(plan)) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(PREDICT)(b"x", timeout=10, metadata=[sign(store)])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "Jwks remote fetch is failed" in (caught.value.details() or "")
