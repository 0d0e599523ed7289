"""A tenant's rate holds over several gateways together, and nobody waits for a service that is away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2_grpc

from mesh.control.rate_limits import RateLimits
from mesh.gateway import Resource, envoy_program, find_envoy, grpc_listener, nodes_cluster, route_configuration
from mesh.gateway.security import Rate, SecurityPlan
from mesh.gateway.security.limits import RATE_LIMIT_CLUSTER, limit_everywhere
from mesh.gateway.security.replies import local_replies
from mesh.gateway.typed import socket_address, typed
from mesh.supervisor import Supervisor
from services.host import Address

pytestmark = pytest.mark.asyncio

_METHOD = "/starling.predict.v1.PredictService/Predict"
_PLAN = SecurityPlan(
    certificates=Path("/c"),
    secrets=Path("/s"),
    keys="{}",
    trust_domain="t",
    issuer="i",
    audience="a",
    rate=Rate(per_s=1, burst=10),
)


def cluster(name: str, port: int) -> Resource:
    options = typed("upstreams.http.v3.HttpProtocolOptions", {"explicit_http_config": {"http2_protocol_options": {}}})
    endpoint = {"endpoint": {"address": socket_address(Address("127.0.0.1", port))}}
    return {
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def bootstrap(node: int, service: int) -> Resource:
    """Returns a gateway with nothing before its router but the question to the service."""
    listener = grpc_listener(Address("127.0.0.1", 0))
    config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    config.pop("rds")
    name = nodes_cluster()["name"]
    config.update(route_config=route_configuration(name), local_reply_config=local_replies())
    config["http_filters"].insert(0, limit_everywhere(timeout_s=5.0))
    return {
        "node": {"id": "gateway", "cluster": "starling"},
        "admin": {"address": socket_address(Address("127.0.0.1", 0))},
        "static_resources": {
            "listeners": [listener],
            "clusters": [cluster(name, node), cluster(RATE_LIMIT_CLUSTER, service)],
        },
    }


async def answer(request: bytes, context: Any) -> bytes:
    return request


@asynccontextmanager
async def gateways(
    tmp_path: Path, count: int
) -> AsyncIterator[tuple[list[grpc.aio.Channel], grpc.aio.Server, RateLimits]]:
    """Starts gateways before one node and one service; yields their channels, the service's server and the service."""
    handler = grpc.unary_unary_rpc_method_handler(answer)
    service, method = _METHOD[1:].split("/")
    node = grpc.aio.server(handlers=[grpc.method_handlers_generic_handler(service, {method: handler})])
    node_port = node.add_insecure_port("127.0.0.1:0")
    limits = RateLimits(_PLAN, time.monotonic)
    counting = grpc.aio.server()
    rls_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, counting)
    counting_port = counting.add_insecure_port("127.0.0.1:0")
    await node.start()
    await counting.start()
    async with Supervisor() as supervisor, AsyncExitStack() as stack:
        channels = []
        for index in range(count):
            folder = tmp_path / str(index)
            folder.mkdir()
            (child,) = await supervisor.start(
                [envoy_program(find_envoy(), bootstrap(node_port, counting_port), folder)]
            )
            channels.append(await stack.enter_async_context(grpc.aio.insecure_channel(child.facts["grpc"])))
        yield channels, counting, limits
    await counting.stop(None)
    await node.stop(None)


async def ask(channel: grpc.aio.Channel, tenant: str) -> grpc.StatusCode:
    try:
        await channel.unary_unary(_METHOD)(b"x", timeout=10, metadata=[("x-tenant", tenant)])
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_rate_holds_over_two_gateways_together(tmp_path: Path) -> None:
    async with gateways(tmp_path, 2) as (channels, _, limits):
        start_s = time.monotonic()
        statuses = [await ask(channels[index % 2], "acme") for index in range(30)]
        passed_s = time.monotonic() - start_s
        answered = statuses.count(grpc.StatusCode.OK)
        assert _PLAN.rate.burst <= answered <= _PLAN.rate.burst + _PLAN.rate.per_s * passed_s + 1
        assert set(statuses) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await ask(channels[0], "other") is grpc.StatusCode.OK
        assert (limits.allowed, limits.refused) == (answered + 1, 30 - answered)


async def test_a_service_that_is_away_limits_nobody(tmp_path: Path) -> None:
    async with gateways(tmp_path, 1) as ((channel,), counting, _):
        assert await ask(channel, "acme") is grpc.StatusCode.OK
        await counting.stop(None)
        assert {await ask(channel, "acme") for _ in range(30)} == {grpc.StatusCode.OK}
