"""The whole control plane without sockets: nodes and samples in, snapshots out, refusals told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.route.v3 import route_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.rpc import status_pb2
from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.access_log import AccessLog
from mesh.control.ads import AggregatedDiscovery
from mesh.control.controller import LATE_S, SETTLE_S, Controller
from mesh.control.estimate import Ending, Sample
from mesh.control.gateways import Gateway, GatewayIdentity
from mesh.control.messages import CLUSTER, ENDPOINTS, ROUTES
from mesh.control.status_service import find_alarms
from mesh.endpoint import Endpoint, Tier
from services.host import Address

pytestmark = pytest.mark.asyncio


class World:
    """A control plane with a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.controller = Controller(100, clock=lambda: self.now_s)

    def register(self, *names: str) -> None:
        for i, name in enumerate(names):
            node = pb.Node(name=name, tier=pb.TIER_EDGE, grpc_address=f"127.0.0.1:{9001 + i}")
            self.controller.registry.register(node, name, self.now_s, 0.0)

    def join(self, name: str, viewpoint: str = "") -> Gateway:
        return self.controller.gateways.join(GatewayIdentity(name, viewpoint or name, Address("127.0.0.1", 1)))

    def live(self, seconds: float, **latency_ms: dict[int, float]) -> None:
        """Lets time pass; each gateway tells how long each port took, ten times a tick, and every node reports."""
        for _ in range(round(seconds / 0.1)):
            self.now_s += 0.1
            for member in self.controller.registry:
                self.controller.registry.renew(member.lease_id, self.now_s)
            for gateway, ports in latency_ms.items():
                for port, latency in ports.items():
                    for _ in range(10):
                        sample = Sample(self.now_s, latency / 1e3, Ending.ANSWERED)
                        self.controller.take(gateway, Address("127.0.0.1", port), sample)
            self.controller.tick(self.now_s)


def weights(gateway: Gateway) -> dict[str, int]:
    assert gateway.snapshot is not None
    body = gateway.snapshot.of_type(ENDPOINTS)["nodes"].body
    assignment = endpoint_pb2.ClusterLoadAssignment.FromString(body.value)
    return {
        entry.endpoint.hostname: entry.load_balancing_weight.value
        for locality in assignment.endpoints
        for entry in locality.lb_endpoints
    }


async def test_gateways_at_different_places_get_different_weights() -> None:
    world = World()
    world.register("east", "west")
    here, there = world.join("a", "hall-1"), world.join("b", "hall-2")
    world.live(5, a={9001: 10, 9002: 40}, b={9001: 40, 9002: 10})
    assert weights(here)["east"] > 9 * weights(here)["west"]
    assert weights(there)["west"] > 9 * weights(there)["east"]


async def test_gateways_at_one_place_share_what_they_see() -> None:
    world = World()
    world.register("east", "west")
    one, other = world.join("a", "hall-1"), world.join("b", "hall-1")
    world.live(5, a={9001: 10, 9002: 40})
    assert weights(one) == weights(other)
    assert weights(other)["east"] > 9 * weights(other)["west"]


async def test_a_steady_mesh_changes_nothing() -> None:
    world = World()
    world.register("east", "west")
    gateway = world.join("a")
    world.live(10, a={9001: 10, 9002: 20})
    before = gateway.snapshot
    world.live(30, a={9001: 10.5, 9002: 19})
    assert gateway.snapshot is before


async def test_a_node_that_leaves_is_gone_at_the_next_look() -> None:
    world = World()
    world.register("east", "west")
    gateway = world.join("a")
    world.live(1, a={9001: 10, 9002: 10})
    world.controller.registry.deregister(world.controller.registry.get("east").lease_id)
    world.controller.tick(world.now_s)
    assert set(weights(gateway)) == {"west"}


def routes(gateway: Gateway) -> str:
    assert gateway.snapshot is not None
    body = gateway.snapshot.of_type(ROUTES)["mesh"].body.value
    return json_format.MessageToJson(route_pb2.RouteConfiguration.FromString(body), indent=None)


def has_route(gateway: Gateway, served: str) -> bool:
    return f'"serves": "{served}"' in routes(gateway)


def refuses(gateway: Gateway) -> bool:
    """Returns whether calls for models that nobody has told of are refused."""
    return '{"name": "x-model-allow", "presentMatch": false}' in routes(gateway)


async def test_a_model_of_a_new_node_is_routed_in_the_same_push_and_others_are_refused() -> None:
    world = World()
    world.register("east")
    gateway = world.join("a")
    world.live(SETTLE_S - 0.5)
    assert not refuses(gateway), "other nodes may not have registered again"
    world.live(1)
    assert refuses(gateway)
    before = gateway.snapshot
    node = pb.Node(name="west", tier=pb.TIER_EDGE, grpc_address="127.0.0.1:9002")
    node.models.add(name="m", version=1, ready=True)
    world.controller.registry.register(node, "west", world.now_s, 0.0)
    world.controller.tick(world.now_s)
    assert gateway.snapshot is not before
    assert set(weights(gateway)) == {"east", "west"}
    assert has_route(gateway, "m:1")
    assert refuses(gateway)


async def test_nothing_is_refused_while_a_node_has_not_told_what_it_has() -> None:
    world = World()
    gateway = world.join("a")
    world.live(SETTLE_S + 1)
    assert not refuses(gateway), "a mesh without nodes"
    registry = world.controller.registry
    silent = registry.add_static(Endpoint("static", Tier.EDGE, Address("127.0.0.1", 9001)), world.now_s, 0.0)
    world.controller.tick(world.now_s)
    assert not refuses(gateway)
    registry.set_models(silent, [])
    world.controller.tick(world.now_s)
    assert refuses(gateway)


async def test_only_nodes_that_register_are_asked_whether_they_are_there() -> None:
    def are_asked() -> bool:
        assert gateway.snapshot is not None
        body = gateway.snapshot.of_type(CLUSTER)["nodes"].body.value
        return "connectionKeepalive" in json_format.MessageToJson(cluster_pb2.Cluster.FromString(body))

    world = World()
    gateway = world.join("a")
    world.register("east")
    world.live(1)
    assert are_asked()
    foreign = Endpoint("foreign", Tier.EDGE, Address("127.0.0.1", 9009))
    world.controller.registry.add_static(foreign, world.now_s, 0.0)
    world.controller.tick(world.now_s)
    assert not are_asked(), "other servers take it for an attack"


async def test_our_own_pause_is_nobodys_silence() -> None:
    world = World()
    world.register("a", "b", "c")
    world.join("gateway")
    world.live(10)
    world.now_s += 3 + LATE_S
    for name in ("b", "c"):
        world.controller.registry.renew(world.controller.registry.get(name).lease_id, world.now_s)
    world.controller.tick(world.now_s)
    assert world.controller.late_ticks == 1
    assert list(find_alarms(world.controller, world.now_s)) == []


async def test_endpoints_are_held_only_while_we_are_new() -> None:
    world = World()
    assert world.controller.is_new()
    world.now_s += SETTLE_S
    assert not world.controller.is_new()


class Conversation:
    """A gateway's side of a delta stream: what it says goes in, what it hears comes out."""

    def __init__(self, world: World) -> None:
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        service = AggregatedDiscovery(world.controller.gateways, world.controller.is_new)
        self.heard = service.DeltaAggregatedResources(self._requests(), None)

    def say(self, **fields: Any) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(**fields)
        request.node.id = "gateway"
        request.node.metadata["starling"] = {"listen": "127.0.0.1:1"}
        self._said.put_nowait(request)

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            yield await self._said.get()


async def test_a_refusal_is_an_alarm_until_something_is_taken() -> None:
    world = World()
    world.register("east")
    talk = Conversation(world)
    talk.say(type_url=CLUSTER)
    response = await asyncio.wait_for(anext(talk.heard), 5)
    talk.say(type_url=CLUSTER, response_nonce=response.nonce, error_detail=status_pb2.Status(message="no such policy"))
    listening = asyncio.ensure_future(anext(talk.heard))
    await asyncio.wait_for(_until(lambda: any(_alarms(world))), 5)
    assert _alarms(world) == ["gateway gateway refused its new Cluster and keeps the old one: no such policy"]
    (gateway,) = world.controller.gateways
    talk.say(type_url=CLUSTER, response_nonce=response.nonce)
    await asyncio.wait_for(_until(lambda: not _alarms(world)), 5)
    assert gateway.accepted == 1
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_a_change_is_settled_once_every_gateway_has_its_verdict() -> None:
    world = World()
    world.register("east")
    talk = Conversation(world)
    talk.say(type_url=ROUTES)
    response = await asyncio.wait_for(anext(talk.heard), 5)
    (gateway,) = world.controller.gateways
    world.controller.registry.set_models(world.controller.registry.get("east"), [pb.NodeModel(name="m", version=1)])
    settling = asyncio.ensure_future(world.controller.settle())
    talk.say(type_url=ROUTES, response_nonce=response.nonce)
    response = await asyncio.wait_for(anext(talk.heard), 5)
    assert not settling.done(), "the gateway has taken the routes of before"
    assert not gateway.settled.is_set()
    talk.say(type_url=ROUTES, response_nonce=response.nonce)
    listening = asyncio.ensure_future(anext(talk.heard))
    await settling
    assert gateway.settled.is_set()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


def _alarms(world: World) -> list[str]:
    return list(find_alarms(world.controller, world.now_s))


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110  # bounded by its caller
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/starling.predict.v1.ModelService/LoadModel", True),
        ("/starling.predict.v1.ModelService/ListModels", False),
        ("/inference.GRPCInferenceService/RepositoryModelUnload", True),
    ],
)
async def test_who_was_asked_to_load_or_unload_a_model_is_told_on(path: str, told: bool) -> None:
    changed: list[Address] = []
    log = AccessLog(lambda *_: None, models_changed=changed.append)

    async def stream() -> AsyncIterator[Any]:
        message = als_pb2.StreamAccessLogsMessage()
        for port in (9001, 0):  # the second one never reached a node
            entry = message.http_logs.log_entry.add()
            entry.request.path = path
            socket = entry.common_properties.upstream_remote_address.socket_address
            socket.address, socket.port_value = "127.0.0.1", port
        yield message

    await log.StreamAccessLogs(stream(), None)
    assert changed == [Address("127.0.0.1", 9001)] * told


@pytest.mark.parametrize(
    ("status", "ending"),
    [("0", Ending.ANSWERED), ("8", Ending.REFUSED), ("4", Ending.LATE), ("14", Ending.FAILED), ("3", None), ("", None)],
)
async def test_an_entry_of_the_access_log_becomes_a_sample(status: str, ending: Ending | None) -> None:
    taken: list[tuple[str, Address, Sample]] = []
    log = AccessLog(lambda *found: taken.append(found), clock=lambda: 7.0)

    async def stream() -> AsyncIterator[Any]:
        message = als_pb2.StreamAccessLogsMessage()
        message.identifier.node.id = "gateway"
        for path in (
            "/starling.predict.v1.PredictService/Predict",
            "/starling.predict.v1.PredictService/PredictStream",
        ):
            entry = message.http_logs.log_entry.add()
            entry.request.path = path
            entry.response.response_trailers["grpc-status"] = status
            common = entry.common_properties
            common.upstream_remote_address.socket_address.address = "127.0.0.1"
            common.upstream_remote_address.socket_address.port_value = 9001
            common.time_to_first_upstream_tx_byte.nanos = 1_000_000
            common.time_to_last_upstream_rx_byte.nanos = 13_000_000
        yield message

    await log.StreamAccessLogs(stream(), None)
    assert log.entries == 2
    if ending is None:
        assert taken == []
        return
    ((gateway, address, sample),) = taken
    assert (gateway, address) == ("gateway", Address("127.0.0.1", 9001))
    assert sample.latency_s == pytest.approx(0.012)
    assert (sample.at_s, sample.ending) == (7.0, ending)
