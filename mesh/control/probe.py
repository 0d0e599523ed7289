"""Calls every node now and then: how far it is, before anybody has sent it a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.control.registry import Registry
from services.host import Address

PROBE_EVERY_S = 2.0
_TIMEOUT_S = 1.0
_AT_ONCE_MAX = 64

Found = Callable[[str, float], None]
"""Takes a node's name and the round trip to it in seconds."""


class Probe:
    """Measures round trips with the health method of the nodes, the best of two calls each.

    Args:
        registry: whom to call.
        found: takes what was measured.
    """

    def __init__(self, registry: Registry, found: Found) -> None:
        self._registry, self._found = registry, found
        self._channels: dict[Address, grpc.aio.Channel] = {}
        self._room = asyncio.Semaphore(_AT_ONCE_MAX)

    async def run(self) -> None:
        """Calls all nodes every few seconds until cancelled."""
        try:
            while True:
                now_s = time.monotonic()
                nodes = {e.name: e.address for e in self._registry.endpoints(now_s)}
                for address in self._channels.keys() - set(nodes.values()):
                    await self._channels.pop(address).close(None)
                await asyncio.gather(*(self._measure(name, address) for name, address in nodes.items()))
                await asyncio.sleep(PROBE_EVERY_S)
        finally:
            for channel in self._channels.values():
                await channel.close(None)

    async def _measure(self, name: str, address: Address) -> None:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(str(address))
        stub = health_pb2_grpc.HealthStub(self._channels[address])
        async with self._room:
            try:
                times_s = [await _time(stub) for _ in range(2)]
            except grpc.aio.AioRpcError:
                return  # the node's own reports and the gateways' health checks tell that
        self._found(name, min(times_s))

    def __repr__(self) -> str:
        """Returns the number of nodes that are called."""
        return f"<Probe nodes={len(self._channels)}>"


async def _time(stub: health_pb2_grpc.HealthStub) -> float:
    began_s = time.monotonic()
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
    return time.monotonic() - began_s
