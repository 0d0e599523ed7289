"""A tenant's rate holds over several gateways together, and nobody waits for a service that is away."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2_grpc

from mesh.control.rate_limits import RateLimits
from mesh.gateway.bootstrap import CONTROL
from mesh.gateway.security import Rate
from mesh.gateway.security.limits import limit_everywhere
from tests.support.security import PLAN
from tests.support.static_gateway import PREDICT, MirrorNode, grpc_cluster, static_gateway

pytestmark = pytest.mark.asyncio

_PLAN = replace(PLAN, rate=Rate(per_s=1, burst=10))


@asynccontextmanager
async def gateways(
    tmp_path_factory: pytest.TempPathFactory, count: int
) -> AsyncIterator[tuple[list[grpc.aio.Channel], grpc.aio.Server, RateLimits]]:
    """Starts gateways before one node and one service; yields their channels, the service's server and the service."""
    limits = RateLimits(_PLAN, time.monotonic)
    counting = grpc.aio.server()
    rls_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, counting)
    service = grpc_cluster(CONTROL, counting.add_insecure_port("127.0.0.1:0"))
    await counting.start()
    # A busy machine of tests may answer late, and who is not answered in time may go on.
    asking = limit_everywhere(timeout_s=5.0)
    async with MirrorNode() as node, AsyncExitStack() as stack:
        channels = []
        for index in range(count):
            folder = tmp_path_factory.mktemp(f"gateway-{index}")
            gateway = static_gateway(folder, node, [asking], [service])
            channels.append(await stack.enter_async_context(gateway))
        yield channels, counting, limits
    await counting.stop(None)


async def ask(channel: grpc.aio.Channel, tenant: str) -> grpc.StatusCode:
    try:
        await channel.unary_unary(PREDICT)(b"x", timeout=10, metadata=[("x-tenant", tenant)])
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_rate_holds_over_two_gateways_together(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with gateways(tmp_path_factory, 2) as (channels, _, limits):
        start_s = time.monotonic()
        statuses = [await ask(channels[index % 2], "acme") for index in range(30)]
        passed_s = time.monotonic() - start_s
        answered = statuses.count(grpc.StatusCode.OK)
        assert _PLAN.rate.burst <= answered <= _PLAN.rate.burst + _PLAN.rate.per_s * passed_s + 1
        assert set(statuses) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert await ask(channels[0], "other") is grpc.StatusCode.OK
        assert (limits.allowed, limits.refused) == (answered + 1, 30 - answered)


async def test_a_service_that_is_away_limits_nobody(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with gateways(tmp_path_factory, 1) as ((channel,), counting, _):
        assert await ask(channel, "acme") is grpc.StatusCode.OK
        await counting.stop(None)
        assert {await ask(channel, "acme") for _ in range(30)} == {grpc.StatusCode.OK}
