"""A node that cannot be reached is left alone for a while, in clusters of any size; a busy one is not. A real Envoy."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from mesh.bench.envoy_stats import read_stats
from mesh.gateway import Resource, nodes_cluster
from mesh.gateway.typed import socket_address
from services.host import Address
from tests.support.static_gateway import PREDICT, MirrorNode, static_envoy

pytestmark = pytest.mark.asyncio

_ENOUGH = 60  # each node is picked often enough


class RefusingNode(MirrorNode):
    """A node that is full, always."""

    async def _answer(self, request: bytes, context: Any) -> bytes:
        del request
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        raise AssertionError("abort raises")


@contextmanager
def dead_ports(count: int) -> Iterator[list[int]]:
    """Holds ports at which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def cluster(*ports: int) -> Resource:
    """Returns the cluster of the nodes without its health checks, which would notice a dead node too."""
    resource = {
        key: value for key, value in nodes_cluster().items() if key not in ("eds_cluster_config", "health_checks")
    }
    hosts = [{"endpoint": {"address": socket_address(Address("127.0.0.1", port))}} for port in ports]
    assignment = {"cluster_name": resource["name"], "endpoints": [{"lb_endpoints": hosts}]}
    return {**resource, "type": "STATIC", "load_assignment": assignment}


@asynccontextmanager
async def gateway(folder: Path, *ports: int) -> AsyncIterator[tuple[grpc.aio.Channel, Address]]:
    async with (
        static_envoy(folder, cluster(*ports)) as child,
        grpc.aio.insecure_channel(child.facts["grpc"]) as channel,
    ):
        yield channel, Address.parse(child.facts["admin"])


async def ask(channel: grpc.aio.Channel) -> None:
    await channel.unary_unary(PREDICT)(b"x", timeout=20)


async def count_ejections(admin: Address) -> int:
    stats = await read_stats(admin, "outlier_detection.ejections_enforced_total")
    return sum(stats.values())


@pytest.mark.parametrize(("living", "dead"), [(1, 1), (2, 1), (1, 2)])
async def test_an_unreachable_node_costs_no_request_and_is_left_alone(tmp_path: Path, living: int, dead: int) -> None:
    async with MirrorNode() as first, MirrorNode() as second:
        with dead_ports(dead) as ports:
            alive = [node.port for node in (first, second)[:living]]
            async with gateway(tmp_path, *alive, *ports) as (channel, admin):
                for _ in range(_ENOUGH):
                    await ask(channel)
                assert await count_ejections(admin) >= 1


async def test_a_node_that_refuses_is_busy_and_stays(tmp_path: Path) -> None:
    async with (
        MirrorNode() as good,
        RefusingNode() as full,
        gateway(tmp_path, good.port, full.port) as (channel, admin),
    ):
        for _ in range(_ENOUGH):
            await ask(channel)
        stats = await read_stats(admin, "cluster.nodes.upstream_rq_retry$")
        assert stats["cluster.nodes.upstream_rq_retry"] >= 3, "it was asked, and somebody else answered"
        assert await count_ejections(admin) == 0
