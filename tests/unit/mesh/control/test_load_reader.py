"""The control plane reads the load of nodes that do not register, as long as it knows them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from starling.mesh.v1 import node_service_pb2 as pb
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from xds.service.orca.v3.orca_pb2 import OrcaLoadReportRequest

from mesh.control.load_reader import METHOD, LoadReader
from mesh.control.registry import REPORT_S, Registry
from mesh.endpoint import Endpoint, Tier
from services.host import Address

REPORT = OrcaLoadReport(cpu_utilization=0.25, named_metrics={"queue_us": 1_000, "compute_us": 4_000})
WAIT_S = 30.0


class FakeNode:
    """Reports its load as it is told to; counts the streams that were opened and those open now."""

    def __init__(self, refusal: grpc.StatusCode | None = None) -> None:
        self.refusal = refusal
        self.asked = self.open = 0
        self.interval_s = 0.0
        self.port = 0
        self.ending = asyncio.Event()

    async def stream(self, request: Any, context: Any) -> AsyncIterator[OrcaLoadReport]:
        self.asked += 1
        if self.refusal is not None:
            await context.abort(self.refusal)
        self.open += 1
        self.interval_s = request.report_interval.ToNanoseconds() / 1e9
        try:
            yield REPORT
            await self.ending.wait()
        finally:
            self.open -= 1

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeNode]:
        handler = grpc.unary_stream_rpc_method_handler(
            self.stream, OrcaLoadReportRequest.FromString, OrcaLoadReport.SerializeToString
        )
        service, name = METHOD[1:].split("/")
        server = grpc.aio.server(
            handlers=[grpc.method_handlers_generic_handler(service, {name: handler})],
            options=[("grpc.so_reuseport", 0)],
        )
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def endpoint(self, name: str = "edge-1") -> Endpoint:
        return Endpoint(name, Tier.EDGE, Address("127.0.0.1", self.port))


@asynccontextmanager
async def reading(registry: Registry) -> AsyncIterator[None]:
    run = asyncio.create_task(LoadReader(registry, wait_s=0.01).run())
    try:
        yield
        assert not run.done(), "it gave up"
    finally:
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run


async def eventually(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, "it has not come true in time"
        await asyncio.sleep(0.01)


def known(*endpoints: Endpoint) -> Registry:
    registry = Registry(10, lambda: None)
    for endpoint in endpoints:
        registry.add_static(endpoint, time.monotonic(), time.time())
    return registry


async def test_what_a_static_node_reports_is_kept() -> None:
    async with FakeNode().serve() as node:
        registry = known(node.endpoint())
        async with reading(registry):
            member = registry.get("edge-1")
            await eventually(lambda: member.report is not None)
            assert (member.report.cpu_ratio, member.service_s) == (0.25, 0.005)
            assert (node.asked, node.interval_s) == (1, REPORT_S)
        await eventually(lambda: node.open == 0)


async def test_a_node_that_registers_is_not_asked() -> None:
    async with FakeNode().serve() as registers, FakeNode().serve() as static:
        registry = known(static.endpoint("edge-2"))
        address = f"127.0.0.1:{registers.port}"
        registry.register(pb.Node(name="edge-1", tier=pb.TIER_EDGE, grpc_address=address), "start", 0.0, 0.0)
        async with reading(registry):
            await eventually(lambda: static.open == 1)
            assert registers.asked == 0


async def test_a_node_that_left_is_asked_no_more() -> None:
    async with FakeNode().serve() as node:
        registry = known()
        registry.set_discovered([node.endpoint()], 0.0, 0.0)
        async with reading(registry):
            await eventually(lambda: node.open == 1)
            registry.set_discovered([], 1.0, 1.0)
            await eventually(lambda: node.open == 0)
            registry.set_discovered([node.endpoint()], 2.0, 2.0)
            await eventually(lambda: node.open == 1)
            assert node.asked == 2


async def test_a_node_that_comes_back_is_asked_again_and_its_old_load_is_not_shown() -> None:
    node = FakeNode()
    async with node.serve():
        registry = known(node.endpoint())
        member = registry.get("edge-1")
    async with reading(registry):
        for asked in (1, 2):
            async with node.serve():
                await eventually(lambda: member.report is not None)
                assert node.asked == asked
            await eventually(lambda: member.report is None)
            assert member.service_s == 0.005


async def test_a_stream_that_breaks_is_opened_again_unless_there_is_no_such_service() -> None:
    broken, old = FakeNode(grpc.StatusCode.UNAVAILABLE), FakeNode(grpc.StatusCode.UNIMPLEMENTED)
    ends = FakeNode()
    ends.ending.set()
    async with broken.serve(), old.serve(), ends.serve():
        registry = known(broken.endpoint("edge-1"), old.endpoint("edge-2"), ends.endpoint("edge-3"))
        async with reading(registry):
            await eventually(lambda: min(broken.asked, ends.asked) >= 5)
            assert (old.asked, registry.get("edge-2").report) == (1, None)
