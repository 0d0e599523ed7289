"""What control plane and gateway cost: a snapshot of ten thousand nodes, one hop, a hundred changes of weights."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.bench.envoy_stats import read_stats
from mesh.bench.requests import write_echo_repository, write_echo_request
from mesh.bench.result import Bar, Result, spread
from mesh.bench.rig import PREDICT, BenchFailed, Load, Rig
from mesh.child import Child
from mesh.control.ads import AggregatedDiscovery
from mesh.control.gateways import Gateway, GatewayTable
from mesh.control.messages import ENDPOINTS
from mesh.control.resources import build_frame, build_snapshot
from mesh.endpoint import Endpoint, Tier
from mesh.gateway import NODES, Balancer, GatewaySite, bootstrap, envoy_program, find_envoy
from mesh.supervisor import Supervisor
from services.host import Address

_NODES = 10_000
_TRIALS = 5
_CHANGES = 100
_EVERY_S = 0.05
_VERDICT_S_MAX = 5.0
_STREAMS = 6
_HOPS, _HOP_S, _MANY = 3, 1.0, 16
_ADDED_US_MAX = 600.0
_CONNECTIONS = "cluster.nodes.upstream_cx_total"
_ANY = Address("127.0.0.1", 0)
_LARGE = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))


@dataclass(frozen=True, slots=True)
class _Hop:
    """The same requests to a node and through the gateway."""

    direct: Load
    through: Load
    direct_rps: float
    through_rps: float


async def run(rig: Rig) -> Result:
    """Measures a snapshot of 10 000 nodes, what the gateway adds, and 100 changes of weights under load."""
    large = [await _push_large() for _ in range(_TRIALS)]
    hops: list[_Hop] = []
    acks_ms, requests, failed, broken, connections = await _change_weights(rig, hops)
    added_us = [hop.through.p50_us - hop.direct.p50_us for hop in hops]
    return Result(
        name="control",
        rows=[
            {"what": "snapshot of 10 000 nodes, built and received, s", **spread(large)},
            {"what": "change of weights to its verdict, ms", **spread(acks_ms)},
            {"what": f"requests over {_CHANGES} changes", "median": requests},
            {"what": "round trip to a node, one outstanding, p50 us", **spread([hop.direct.p50_us for hop in hops])},
            {"what": "the same through the gateway", **spread([hop.through.p50_us for hop in hops])},
            {"what": "added by the gateway, p50 us", **spread(added_us)},
            {"what": f"requests/s to a node, {_MANY} outstanding", **spread([hop.direct_rps for hop in hops])},
            {"what": "the same through the gateway, three nodes", **spread([hop.through_rps for hop in hops])},
        ],
        bars=(
            Bar("snapshot of 10 000 nodes, built and received, s", 1.0, max(large), at_most=True),
            Bar("p50 added by the gateway, us", _ADDED_US_MAX, median(added_us), at_most=True),
            Bar(f"requests that failed over {_CHANGES} changes", 0, failed, at_most=True),
            Bar(f"streams that broke over {_CHANGES} changes", 0, broken, at_most=True),
            Bar(f"connections to nodes made anew over {_CHANGES} changes", 0, connections, at_most=True),
        ),
    )


async def _push_large() -> float:
    """Returns the time from plain values to a client that has every endpoint of a new snapshot."""
    endpoints = [
        Endpoint(f"node-{i}", Tier.EDGE, Address(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", 8001)) for i in range(_NODES)
    ]
    joined: asyncio.Future[Gateway] = asyncio.get_running_loop().create_future()
    gateways = GatewayTable(joined.set_result)
    async with _served(gateways) as address, grpc.aio.insecure_channel(address, options=_LARGE) as channel:
        stream: Any = ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).DeltaAggregatedResources()
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=ENDPOINTS)
        request.node.id = "bench"
        request.node.metadata["starling"] = {"listen": str(_ANY.with_port(1))}
        request.resource_names_subscribe.append(NODES)
        await stream.write(request)
        gateway = await joined
        frame = build_frame(_ANY.with_port(1), Balancer.LEAST_REQUEST)
        began_s = time.monotonic()
        gateway.put(build_snapshot(frame, endpoints, {e.name: 1 + i for i, e in enumerate(endpoints)}))
        response = await stream.read()
        elapsed_s = time.monotonic() - began_s
        assert len(response.resources) == 1, "all endpoints of a cluster are one resource"
        stream.cancel()
        return elapsed_s


async def _measure_hop(rig: Rig, node: Child, gateway: Child, request: Path) -> _Hop:
    """Asks a node and the gateway before it, one after the other, so that both meet the machine at one speed."""
    direct = await rig.load(node, request, outstanding=1, seconds=_HOP_S)
    through = await rig.load(gateway, request, outstanding=1, seconds=_HOP_S)
    many = await rig.load(node, request, outstanding=_MANY, seconds=_HOP_S)
    many_through = await rig.load(gateway, request, outstanding=_MANY, seconds=_HOP_S)
    return _Hop(direct, through, many.rps, many_through.rps)


async def _change_weights(rig: Rig, hops: list[_Hop]) -> tuple[list[float], int, int, int, int]:
    """Returns verdict times, requests, failed ones, broken streams and new connections, over many changes."""
    repository, path = write_echo_repository(rig.folder), write_echo_request(rig.folder)
    content = path.read_bytes()
    joined: asyncio.Future[Gateway] = asyncio.get_running_loop().create_future()
    gateways = GatewayTable(joined.set_result)
    nodes = [await rig.start_node(repository, "echo") for _ in range(3)]
    endpoints = [Endpoint(f"n{i}", Tier.EDGE, Address.parse(n.facts["grpc"])) for i, n in enumerate(nodes)]
    async with _served(gateways) as address, Supervisor() as supervisor:
        site = GatewaySite("bench", _ANY, Address.parse(address))
        (envoy,) = await supervisor.spawn([envoy_program(find_envoy(), bootstrap(site), rig.folder)])
        gateway = await joined
        frame = build_frame(_ANY, Balancer.LEAST_REQUEST)

        def put(i: int) -> None:
            gateway.put(
                build_snapshot(frame, endpoints, {e.name: 1000 + 100 * (i + k) for k, e in enumerate(endpoints)})
            )

        put(0)
        facts = await envoy.ready()
        async with grpc.aio.insecure_channel(facts["grpc"]) as channel:
            call = channel.unary_unary(PREDICT, request_serializer=None, response_deserializer=None)
            await call(content, timeout=10, wait_for_ready=True)
            await asyncio.sleep(1)
            streams = [_Stream(channel) for _ in range(_STREAMS)]
            for stream in streams:
                await stream.talk()
            before = (await read_stats(Address.parse(facts["admin"]), _CONNECTIONS))[_CONNECTIONS]
            acks_ms, sent, failed = [], 0, 0
            for i in range(1, _CHANGES + 1):
                accepted = gateway.accepted
                put(i)
                end_s = time.monotonic() + _EVERY_S
                while time.monotonic() < end_s:
                    sent += 1
                    try:
                        await call(content, timeout=5)
                    except grpc.aio.AioRpcError:
                        failed += 1
                while gateway.accepted == accepted:  # on a busy machine a verdict takes longer than that
                    if time.monotonic() - end_s > _VERDICT_S_MAX:
                        raise BenchFailed(f"no verdict on change {i} within {_VERDICT_S_MAX:g} s")
                    await asyncio.sleep(0.001)
                assert gateway.last_ack_s is not None
                acks_ms.append(gateway.last_ack_s * 1e3)
            broken = sum([not await stream.talk() for stream in streams])
            connections = (await read_stats(Address.parse(facts["admin"]), _CONNECTIONS))[_CONNECTIONS] - before
            # Last: it fills both cores, and Envoy may lose the discovery server meanwhile.
            hops += [await _measure_hop(rig, nodes[0], envoy, path) for _ in range(_HOPS)]
            return acks_ms, sent, failed, broken, connections


class _Stream:
    """One long call through the gateway: reflection, which answers each message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        self._call = stub.ServerReflectionInfo()

    async def talk(self) -> bool:
        """Sends a message and waits for its answer; returns whether one came."""
        try:
            await self._call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            return bool(await self._call.read())
        except grpc.aio.AioRpcError:
            return False


@contextlib.asynccontextmanager
async def _served(gateways: GatewayTable) -> AsyncIterator[str]:
    """Yields the address of a discovery server for these gateways."""
    server = grpc.aio.server(options=_LARGE)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(AggregatedDiscovery(gateways, lambda: False), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
