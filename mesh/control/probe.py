"""Calls every node now and then: how far it is, before anybody has sent it a request, and what a silent one has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starling.mesh.v1 import node_service_pb2
from starling.predict.v1 import model_service_pb2, model_service_pb2_grpc

from mesh.control.node_channel import connect_node
from mesh.control.registry import Member, Registry
from services.host import Address

PROBE_EVERY_S = 2.0
_TIMEOUT_S = 1.0
_AT_ONCE_MAX = 64
_SOON_MAX = 64  # beyond these, nodes wait for the next round

Found = Callable[[str, float], None]
"""Takes a node's name and the round trip to it in seconds."""


class Probe:
    """Measures round trips with the health method of the nodes, the best of two calls each.

    Args:
        registry: whom to call.
        found: takes what was measured.
        certs: folder with `tls.crt`, `tls.key` and `ca.crt`, for nodes that ask who calls; plain text without it.
        every_s: from the end of one round to the next.
    """

    def __init__(
        self, registry: Registry, found: Found, certs: Path | None = None, every_s: float = PROBE_EVERY_S
    ) -> None:
        self._registry, self._found, self._certs, self._every_s = registry, found, certs, every_s
        self._soon: asyncio.Queue[Address] = asyncio.Queue(_SOON_MAX)
        self._channels: dict[Address, grpc.aio.Channel] = {}
        self._room = asyncio.Semaphore(_AT_ONCE_MAX)

    def call_soon(self, address: Address) -> None:
        """Has one node called before its turn: it may have other models, and may not tell by itself."""
        with suppress(asyncio.QueueFull):
            self._soon.put_nowait(address)

    async def run(self) -> None:
        """Calls all nodes every few seconds until cancelled."""
        try:
            while True:
                now_s = time.monotonic()
                nodes = {e.name: e.address for e in self._registry.endpoints(now_s)}
                for address in self._channels.keys() - set(nodes.values()):
                    await self._channels.pop(address).close(None)
                silent = {member.name: member for member in self._registry if not member.lease_id}
                await asyncio.gather(*(self._measure(name, address, silent) for name, address in nodes.items()))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._call_those(silent)
        finally:
            for channel in self._channels.values():
                await channel.close(None)

    async def _call_those(self, silent: Mapping[str, Member]) -> None:
        """Calls those nodes without a lease that are to be called soon, until cancelled."""
        while True:
            address = await self._soon.get()
            for name in [member.name for member in silent.values() if member.address == address]:
                await self._measure(name, address, silent)

    async def _measure(self, name: str, address: Address, silent: Mapping[str, Member]) -> None:
        async with self._room:
            try:
                if address not in self._channels:
                    self._channels[address] = await connect_node(name, address, self._certs)
                stub = health_pb2_grpc.HealthStub(self._channels[address])
                times_s = [await _time(stub) for _ in range(2)]
                if name in silent:
                    await self._read_models(silent[name], self._channels[address])
            except (grpc.aio.AioRpcError, OSError):
                if self._certs is not None and address in self._channels:
                    # The next round reads certificates that may have been renewed.
                    await self._channels.pop(address).close(None)
                return  # the node's own reports and the gateways' health checks tell that
        self._found(name, min(times_s))

    async def _read_models(self, member: Member, channel: grpc.aio.Channel) -> None:
        """Asks a node that does not report by itself which models it has."""
        stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
        try:
            reply = await stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return  # it keeps what it had
        ready = [model for model in reply.models if model.state == model_service_pb2.MODEL_STATE_READY]
        models = [node_service_pb2.NodeModel(name=m.name, version=m.version, ready=True) for m in ready]
        if models != list(member.node.models) or not member.has_told:
            self._registry.set_models(member, models)

    def __repr__(self) -> str:
        """Returns the number of nodes that are called."""
        return f"<Probe nodes={len(self._channels)}>"


async def _time(stub: health_pb2_grpc.HealthStub) -> float:
    began_s = time.monotonic()
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
    return time.monotonic() - began_s
