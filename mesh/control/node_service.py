"""NodeService: nodes register, report and are told what to do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.access import Access
from mesh.control.errors import InvalidNode
from mesh.control.guard import read_spiffe_id
from mesh.control.load import service_s
from mesh.control.registry import LEASE_S, REPORT_S, Member, Registry
from mesh.control.times import duration, timestamp
from mesh.control.wire import answers, streams

_PAGE_DEFAULT, _PAGE_MAX = 100, 1000
_PUSHED_S = 0.5  # by then every gateway has heard that a node drains, or is not connected
_log = logging.getLogger(__name__)


class NodeService:
    """Serves `starling.mesh.v1.NodeService` from the registry.

    Args:
        registry: the nodes.
        access: judges who speaks for which node; anybody for each without it.
        settle: waits until gateways know what is in the registry, not for ever.
        clock, calendar: seconds, monotonic and since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        access: Access | None = None,
        settle: Callable[[], Coroutine[Any, Any, None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self._registry, self._access, self._clock, self._calendar = registry, access, clock, calendar
        self._settle = settle
        self._order_ids = itertools.count(1)
        self._draining: set[asyncio.Task[None]] = set()

    @answers
    async def RegisterNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Makes a node known and gives it a lease."""
        self._check(context, request.node.name)
        member = self._registry.register(request.node, request.request_id, self._clock(), self._calendar())
        _log.info("node %s registered from %s", member.name, member.address)
        return pb.RegisterNodeResponse(
            lease_id=member.lease_id, lease_duration=duration(LEASE_S), report_period=duration(REPORT_S)
        )

    @streams
    async def ReportLoad(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Renews a lease with each message and hands out orders."""
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "header":
            raise InvalidNode("the first message of a load stream names the lease; send a ReportLoadHeader")
        lease_id = first.header.lease_id
        self._check(context, self._registry.find(lease_id).name)
        member = self._registry.renew(lease_id, self._clock())
        if member.drain_order is not None and member.drain_order not in member.orders:
            member.orders.append(member.drain_order)  # what was written into a stream that broke may be lost
        yield pb.ReportLoadResponse(header=pb.LeaseHeader(expire_time=self._expire_time()))
        async for request in requests:
            member = self._registry.renew(lease_id, self._clock())
            self._take(member, request)
            if request.WhichOneof("message") == "models":
                await self._tell_gateways(lease_id)
            yield pb.ReportLoadResponse(renewal=pb.LeaseRenewal(expire_time=self._expire_time()))
            while member.orders:
                yield pb.ReportLoadResponse(order=member.orders.pop(0))

    @answers
    async def DrainNode(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Sends nothing new to a node, then asks it to finish."""
        member = self._registry.drain(request.name)
        _log.info("node %s drains: %s", member.name, request.cause or "no cause given")
        order = pb.Order(order_id=str(next(self._order_ids)), drain=pb.DrainOrder())
        if request.HasField("timeout"):
            order.drain.timeout.CopyFrom(request.timeout)
        task = asyncio.create_task(self._order_later(member.name, member.request_id, order))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        return pb.DrainNodeResponse(node=describe(member))

    @answers
    async def DeregisterNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Forgets a node at once."""
        self._check(context, self._registry.find(request.lease_id).name)
        member = self._registry.deregister(request.lease_id)
        _log.info("node %s left", member.name)
        return pb.DeregisterNodeResponse()

    @answers
    async def ListNodes(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Lists nodes by name, page by page."""
        if not 0 <= request.page_size <= _PAGE_MAX:
            raise InvalidNode(f"page_size is {request.page_size}; expected 1 to {_PAGE_MAX}, 0 for {_PAGE_DEFAULT}")
        size = request.page_size or _PAGE_DEFAULT
        found = [
            member
            for member in self._registry
            if request.tier in (pb.TIER_UNSPECIFIED, member.node.tier)
            and (not request.model_name or request.model_name in member.serves)
            and member.name > request.page_token
        ]
        page = found[:size]
        token = page[-1].name if len(found) > size else ""
        return pb.ListNodesResponse(nodes=[describe(member) for member in page], next_page_token=token)

    def _check(self, context: Any, node: str) -> None:
        if self._access is not None:
            self._access.check_node(read_spiffe_id(context), node)

    async def _order_later(self, name: str, request_id: str, order: Any) -> None:
        # A node refuses as soon as it drains; gateways have to look elsewhere before that.
        await asyncio.sleep(_PUSHED_S)
        self._registry.order_drain(name, request_id, order)

    async def _tell_gateways(self, lease_id: str) -> None:
        if self._settle is None:
            return
        telling = asyncio.create_task(self._settle())
        try:
            # The node is not silent: what it says waits for us.
            while not (await asyncio.wait({telling}, timeout=REPORT_S))[0]:
                self._registry.renew(lease_id, self._clock())
            await telling
        finally:
            telling.cancel()

    def _take(self, member: Member, request: Any) -> None:
        match request.WhichOneof("message"):
            case "report":
                member.take_report(request.report, service_s(request.report))
            case "models":
                self._registry.set_models(member, request.models.models)
            case "result" if request.result.code:
                _log.error(
                    "node %s could not do order %s: %s", member.name, request.result.order_id, request.result.message
                )
            case "header":
                raise InvalidNode("a load stream has one header, its first message")

    def _expire_time(self) -> Timestamp:
        return timestamp(self._calendar() + LEASE_S)


def describe(member: Member) -> Any:
    """Returns a node as callers see it."""
    node = pb.Node()
    node.CopyFrom(member.node)
    node.state = member.state
    node.register_time.CopyFrom(timestamp(member.registered_time))
    if member.report is not None:
        node.load.CopyFrom(member.report)
    return node
