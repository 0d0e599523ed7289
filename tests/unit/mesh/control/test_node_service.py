"""What nodes hear on their stream of reports, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.node_service import NodeService
from mesh.control.registry import Registry
from mesh.endpoint import Health

pytestmark = pytest.mark.asyncio


async def test_a_list_of_models_is_answered_once_gateways_know_it_and_the_node_is_not_silent_meanwhile() -> None:
    now_s = 100.0
    registry, known = Registry(10, lambda: None), asyncio.Event()

    async def settle() -> None:
        assert registry.get("east").serves == ("m", "m:1")
        await known.wait()

    def clock() -> float:
        nonlocal now_s
        now_s += 0.1
        return now_s

    node = pb.Node(name="east", tier=pb.TIER_EDGE, grpc_address="127.0.0.1:9001")
    member = registry.register(node, "east", now_s, 0.0)
    models = pb.NodeModels(models=[pb.NodeModel(name="m", version=1, ready=True)])

    async def requests() -> AsyncIterator[Any]:
        yield pb.ReportLoadRequest(header=pb.ReportLoadHeader(lease_id=member.lease_id))
        yield pb.ReportLoadRequest(report=pb.LoadReport())
        yield pb.ReportLoadRequest(models=models)

    heard = NodeService(registry, None, settle, clock).ReportLoad(requests(), None)
    assert (await anext(heard)).HasField("header")
    assert (await anext(heard)).HasField("renewal")
    answer = asyncio.ensure_future(anext(heard))
    before_s = now_s
    while now_s < before_s + 0.5:  # noqa: ASYNC110  # it is heard of itself
        await asyncio.sleep(0.01)
    assert not answer.done()
    assert registry.get("east").health(now_s) is Health.SERVING
    known.set()
    assert (await answer).HasField("renewal")


async def test_an_order_to_drain_that_a_broken_stream_swallowed_comes_again() -> None:
    registry = Registry(10, lambda: None)
    node = pb.Node(name="east", tier=pb.TIER_EDGE, grpc_address="127.0.0.1:9001")
    member = registry.register(node, "process-1", 0.0, 0.0)
    service = NodeService(registry, clock=lambda: 1.0)

    async def requests() -> AsyncIterator[Any]:
        yield pb.ReportLoadRequest(header=pb.ReportLoadHeader(lease_id=member.lease_id))
        yield pb.ReportLoadRequest(report=pb.LoadReport())

    registry.drain("east")
    registry.order_drain("east", "process-1", pb.Order(order_id="7", drain=pb.DrainOrder()))
    for _ in range(2):
        heard = [answer async for answer in service.ReportLoad(requests(), None)]
        assert [answer.order.order_id for answer in heard if answer.HasField("order")] == ["7"]
