"""Who may call the control plane: by kind of certificate, and for nobody but themselves."""

from __future__ import annotations

import logging

import pytest
from starling.mesh.v1 import control_service_pb2, node_service_pb2

from mesh.control.access import ALARM_S, Access
from mesh.control.errors import NotAllowed

_ADS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_ALLOWED = {
    f"{_ADS}DeltaAggregatedResources": {"gateway"},
    f"{_ADS}StreamAggregatedResources": {"gateway"},
    "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs": {"gateway"},
    "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit": {"gateway"},
    "/starling.mesh.v1.NodeService/RegisterNode": {"node"},
    "/starling.mesh.v1.NodeService/ReportLoad": {"node"},
    "/starling.mesh.v1.NodeService/DeregisterNode": {"node"},
    "/starling.mesh.v1.NodeService/DrainNode": {"admin"},
    "/starling.mesh.v1.NodeService/ListNodes": {"admin"},
    "/starling.mesh.v1.ControlService/GetMesh": {"admin"},
    "/starling.mesh.v1.ControlService/SetModelRoute": {"admin"},
    "/starling.mesh.v1.ControlService/DeleteModelRoute": {"admin"},
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {"admin"},
    "/grpc.health.v1.Health/Check": {"admin", "agent", "control", "gateway", "node"},
    "/starling.mesh.v1.NodeService/SomethingNew": {"admin"},
}


class World:
    """A judge at a time that stands still."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.access = Access("starling", lambda: self.now_s)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("method", _ALLOWED)
@pytest.mark.parametrize("role", ["admin", "agent", "control", "gateway", "node"])
def test_a_method_is_for_some_kinds_of_holders(world: World, method: str, role: str) -> None:
    spiffe_id = f"spiffe://starling/{role}/x"
    if role in _ALLOWED[method]:
        world.access.check_method(spiffe_id, method)
    else:
        with pytest.raises(NotAllowed, match=f"{spiffe_id} may not call {method}"):
            world.access.check_method(spiffe_id, method)


def test_every_method_we_serve_was_judged_here() -> None:
    services = (
        node_service_pb2.DESCRIPTOR.services_by_name["NodeService"],
        control_service_pb2.DESCRIPTOR.services_by_name["ControlService"],
    )
    served = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert served <= _ALLOWED.keys()


@pytest.mark.parametrize(
    "spiffe_id",
    [
        "",
        "spiffe://elsewhere/node/edge-1",
        "spiffe://starling.evil/node/edge-1",
        "spiffe://starling/node/edge-10",
        "spiffe://starling/node/edge-1/",
        "spiffe://starling/node/",
        "spiffe://starling/gateway/edge-1",
        "spiffe://starling/node/../node/edge-1",
        "https://starling/node/edge-1",
    ],
)
def test_nobody_else_speaks_for_a_node(world: World, spiffe_id: str) -> None:
    world.access.check_node("spiffe://starling/node/edge-1", "edge-1")
    for name in ("edge-1", "", "../", "edge-1/"):
        with pytest.raises(NotAllowed, match="may not speak for node"):
            world.access.check_node(spiffe_id, name)


def test_replicas_of_a_gateway_share_its_certificate(world: World) -> None:
    for name in ("edge", "edge/pod-7"):
        world.access.check_gateway("spiffe://starling/gateway/edge", name)
    for name in ("edge-2", "cloud", "", "/edge"):
        with pytest.raises(NotAllowed, match="may not speak for gateway"):
            world.access.check_gateway("spiffe://starling/gateway/edge", name)


def test_refusals_are_counted_by_services_that_exist(world: World) -> None:
    for method in ("/starling.mesh.v1.ControlService/GetMesh", "/a.stranger/Choice", "/another.stranger/Choice"):
        with pytest.raises(NotAllowed):
            world.access.check_method("spiffe://starling/agent/x", method)
    assert world.access.refused == {"starling.mesh.v1.ControlService": 1, "other": 2}


def test_a_refusal_is_an_alarm_for_a_while(world: World) -> None:
    assert list(world.access.alarms(0.0)) == []
    with pytest.raises(NotAllowed):
        world.access.check_node("spiffe://starling/node/edge-2", "edge-1")
    (alarm,) = world.access.alarms(2.0)
    assert alarm.startswith("refused a caller 2 s ago, 1 since the start; the last: spiffe://starling/node/edge-2 may")
    assert list(world.access.alarms(ALARM_S)) == []


def test_a_caller_that_tries_again_and_again_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            with pytest.raises(NotAllowed):
                world.access.check_node("spiffe://starling/node/edge-2", "edge-1")
        assert len(caplog.records) == 1
        world.now_s = 1.0
        with pytest.raises(NotAllowed):
            world.access.check_node("spiffe://starling/node/edge-2", "edge-1")
    assert caplog.messages[1].endswith("(99 more were not logged)")
