"""The aggregated discovery service: one stream per gateway, over which its whole configuration comes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from mesh.control.access import Access
from mesh.control.discovery_stream import DeltaStream, DiscoveryStream, Verdict, WorldStream
from mesh.control.errors import NotAllowed
from mesh.control.gateways import Gateway, GatewayIdentity, GatewayTable
from mesh.control.guard import read_spiffe_id
from mesh.control.messages import short_name
from mesh.control.wire import refuse

_UNANSWERED_MAX = 1000
_log = logging.getLogger(__name__)


class AggregatedDiscovery:
    """Serves `envoy.service.discovery.v3.AggregatedDiscoveryService`, both protocols.

    Args:
        gateways: entry per connected gateway.
        is_new: tells whether gateways keep what they bring along for now, because we have just started and do not
            know the nodes and their models yet.
        access: judges who speaks for which gateway; anybody for each without it.
        clock: seconds, for the time to a verdict.
    """

    def __init__(
        self,
        gateways: GatewayTable,
        is_new: Callable[[], bool],
        access: Access | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateways, self._is_new, self._access, self._clock = gateways, is_new, access, clock

    async def DeltaAggregatedResources(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Serves one stream of the incremental protocol."""
        async for response in self._serve(DeltaStream(), requests, context):
            yield response

    async def StreamAggregatedResources(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Serves one stream of the state-of-the-world protocol."""
        async for response in self._serve(WorldStream(), requests, context):
            yield response

    async def _serve(self, stream: DiscoveryStream, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        try:
            identity = GatewayIdentity.read(first.node)
            if self._access is not None:
                self._access.check_gateway(read_spiffe_id(context), identity.name)
            gateway = self._gateways.join(identity)
        except NotAllowed as error:
            await refuse(context, error)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        _log.info("gateway %s connected with %r", gateway.identity.name, stream)
        sent_at: dict[str, float] = {}
        stream.receive(first)
        gateway.changed.set()
        reading = asyncio.create_task(self._read(stream, requests, gateway, sent_at))
        try:
            while not reading.done():
                gateway.changed.clear()
                if gateway.snapshot is not None:
                    for response in stream.respond(gateway.snapshot, hold=self._is_new()):
                        if len(sent_at) < _UNANSWERED_MAX:
                            sent_at[response.nonce] = self._clock()
                        gateway.pushed += 1
                        gateway.unanswered[response.type_url] = response.nonce
                        yield response
                    if not gateway.unanswered and not gateway.changed.is_set():
                        gateway.settled.set()
                waiting = asyncio.create_task(gateway.changed.wait())
                try:
                    await asyncio.wait({waiting, reading}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
        finally:
            reading.cancel()
            self._gateways.leave(gateway)
            gateway.settled.set()  # nobody waits for who has gone
            _log.info("gateway %s disconnected", gateway.identity.name)

    async def _read(
        self, stream: DiscoveryStream, requests: AsyncIterator[Any], gateway: Gateway, sent_at: dict[str, float]
    ) -> None:
        async for request in requests:
            verdict = stream.receive(request)
            if verdict is not None:
                self._note(gateway, verdict, sent_at)
            gateway.changed.set()

    def _note(self, gateway: Gateway, verdict: Verdict, sent_at: dict[str, float]) -> None:
        if gateway.unanswered.get(verdict.type_url) == verdict.nonce:
            del gateway.unanswered[verdict.type_url]
        sent = sent_at.pop(verdict.nonce, None)
        if sent is not None:
            gateway.last_ack_s = self._clock() - sent
        kind = short_name(verdict.type_url)
        if verdict.refusal:
            gateway.refusals[kind] = verdict.refusal
            _log.error("gateway %s keeps its old %s: %s", gateway.identity.name, kind, verdict.refusal)
        else:
            gateway.accepted += 1
            gateway.refusals.pop(kind, None)
