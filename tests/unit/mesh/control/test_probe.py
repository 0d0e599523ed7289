"""The control plane calls nodes that ask who calls, and does not take one node for another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starling.predict.v1 import model_service_pb2, model_service_pb2_grpc

from mesh.certs import LOCAL_HOSTS, CertStore, Identity, Role
from mesh.control.probe import Probe
from mesh.control.registry import Registry
from mesh.endpoint import Endpoint, Tier
from services.host import Address
from tests.support.waiting import wait_for

NODE = Identity(Role.NODE, "edge-1")
CONTROL = Identity(Role.CONTROL, "control")


@pytest.fixture
def store(tmp_path: Path) -> CertStore:
    store, now = CertStore(tmp_path), datetime.now(UTC)
    store.create("starling", now)
    store.issue(NODE, now, hosts=[*LOCAL_HOSTS, NODE.name])
    store.issue(CONTROL, now)
    return store


@asynccontextmanager
async def node(store: CertStore) -> AsyncIterator[Address]:
    folder = store.folder(NODE)
    pair = (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], (folder / "ca.crt").read_bytes(), require_client_auth=True)
    server = grpc.aio.server()
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    yield Address("127.0.0.1", port)
    await server.stop(None)


async def measure(endpoint: Endpoint, certs: Path | None, limit_s: float) -> str | None:
    """Returns the name of the first node that was reached; None when none was in time."""
    registry = Registry(10, lambda: None)
    registry.add_static(endpoint, time.monotonic(), time.time())
    found: asyncio.Queue[str] = asyncio.Queue()
    run = asyncio.create_task(Probe(registry, lambda name, _: found.put_nowait(name), certs).run())
    try:
        async with asyncio.timeout(limit_s):
            return await found.get()
    except TimeoutError:
        assert not run.done(), "it gave up"
        return None
    finally:
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run


async def test_a_node_that_asks_for_a_certificate_is_reached(store: CertStore) -> None:
    async with node(store) as address:
        assert await measure(Endpoint("edge-1", Tier.EDGE, address), store.folder(CONTROL), 10.0) == "edge-1"


async def test_another_node_at_the_address_is_not_taken_for_it(store: CertStore) -> None:
    async with node(store) as address:
        assert await measure(Endpoint("edge-2", Tier.EDGE, address), store.folder(CONTROL), 1.5) is None


async def test_without_certificates_it_goes_on_without_that_node(store: CertStore, tmp_path: Path) -> None:
    async with node(store) as address:
        for certs in (None, tmp_path / "nowhere"):
            assert await measure(Endpoint("edge-1", Tier.EDGE, address), certs, 1.0) is None


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Lists what it is told to have."""

    def __init__(self) -> None:
        self.names: list[str] = []

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        ready = model_service_pb2.MODEL_STATE_READY
        models = [model_service_pb2.Model(name=name, version=1, state=ready) for name in self.names]
        return model_service_pb2.ListModelsResponse(models=models)


async def test_a_node_is_called_before_its_turn_when_its_models_may_have_changed() -> None:
    models, server = Models(), grpc.aio.server()
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    address = Address("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    registry = Registry(10, lambda: None)
    member = registry.add_static(Endpoint("edge-1", Tier.EDGE, address), time.monotonic(), time.time())
    probe = Probe(registry, lambda *_: None, every_s=3600)
    run = asyncio.create_task(probe.run())
    try:

        async def has_told() -> bool:
            return member.has_told

        async def serves_more() -> bool:
            return "later" in member.serves

        await wait_for(has_told)
        models.names = ["later"]
        probe.call_soon(Address("127.0.0.1", 1))  # nobody's
        probe.call_soon(address)
        await wait_for(serves_more)
    finally:
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
        await server.stop(None)
