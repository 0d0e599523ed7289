"""Which nodes EndpointSlices name, whatever shape they come in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.kubernetes.slices import build_endpoints, make_name, parse_service
from mesh.control.registry import Registry
from mesh.endpoint import Health, Tier
from tests.support.fake_kubernetes import make_endpoint, make_slice


def build(*slices: Any) -> dict[str, tuple[str, Health]]:
    return {e.name: (str(e.address), e.health) for e in build_endpoints(slices, Tier.CLOUD, "grpc")}


@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        ({}, Health.SERVING),
        ({"ready": None, "serving": None, "terminating": None}, Health.SERVING),
        ({"ready": False, "serving": False}, None),
        ({"ready": False, "serving": True}, None),
        ({"ready": False, "serving": True, "terminating": True}, Health.DRAINING),
        ({"ready": False, "serving": False, "terminating": True}, None),
        ({"ready": False, "serving": None, "terminating": True}, None),
    ],
)
def test_conditions_say_what_a_node_gets(conditions: dict[str, bool | None], health: Health | None) -> None:
    found = build(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1", **conditions)))
    assert found == ({} if health is None else {"node-0": ("10.0.0.1:8001", health)})


def test_a_service_may_have_several_slices() -> None:
    one = make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1"))
    two = make_slice("nodes-b", make_endpoint("node-1", "10.0.0.2"), make_endpoint("node-0", "10.0.0.1"))
    assert list(build(one, two)) == ["node-0", "node-1"]


def test_a_pod_that_is_replaced_is_its_successor() -> None:
    going = make_endpoint("node-0", "10.0.0.1", ready=False, serving=True, terminating=True)
    coming = make_endpoint("node-0", "10.0.0.9")
    for slices in (
        (make_slice("a", going), make_slice("b", coming)),
        (make_slice("a", coming), make_slice("b", going)),
        (make_slice("a", going, coming),),
    ):
        assert build(*slices) == {"node-0": ("10.0.0.9:8001", Health.SERVING)}


def test_a_pod_of_two_families_is_one_node() -> None:
    six = make_slice("nodes-six", make_endpoint("node-0", "fd00::1"), addressType="IPv6")
    four = make_slice("nodes-four", make_endpoint("node-0", "10.0.0.1"))
    assert build(six, four) == {"node-0": ("10.0.0.1:8001", Health.SERVING)}
    assert build(six) == {"node-0": ("[fd00::1]:8001", Health.SERVING)}


@pytest.mark.parametrize(
    "ports",
    [
        None,
        [],
        [{"name": "metrics", "port": 8002}, {"name": "web", "port": 80}],
        [{"name": "grpc", "port": None}],
        [{"name": "grpc", "port": 8001, "protocol": "UDP"}],
    ],
)
def test_a_slice_without_the_port_names_nobody(ports: Any) -> None:
    assert build(make_slice("a", make_endpoint("node-0", "10.0.0.1"), ports=ports)) == {}


def test_the_only_port_needs_no_name() -> None:
    found = build(make_slice("a", make_endpoint("node-0", "10.0.0.1"), ports=[{"name": "", "port": 9}]))
    assert found == {"node-0": ("10.0.0.1:9", Health.SERVING)}


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoints": None},
        {"endpoints": [{"addresses": None}]},
        {"endpoints": [{"addresses": []}]},
        {"addressType": "FQDN"},
        {"metadata": None, "endpoints": []},
    ],
)
def test_lists_may_be_absent_or_null(changes: Any) -> None:
    assert build({**make_slice("a", make_endpoint("node-0", "10.0.0.1")), **changes}) == {}


def test_an_endpoint_without_a_pod_is_named_after_its_host_or_address() -> None:
    bare = {"addresses": ["10.0.0.1"]}
    named = {"addresses": ["10.0.0.2"], "hostname": "edge-1", "conditions": None}
    (first, second) = build(make_slice("a", bare, named))
    assert (first[:16], second) == ("at-10-0-0-1-8001", "edge-1")


@given(st.text(max_size=300))
def test_every_name_is_one_that_the_registry_takes(text: str) -> None:
    registry = Registry(10, lambda: None)
    endpoint = {**make_endpoint("x", "10.0.0.1"), "targetRef": {"kind": "Pod", "name": text}}
    (found,) = build_endpoints([make_slice("a", endpoint)], Tier.EDGE, "grpc")
    assert registry.set_discovered([found], 0.0, 0.0) == 1
    assert make_name(found.name) == found.name


def test_names_that_look_alike_stay_apart() -> None:
    names = {make_name("web.one"), make_name("web-one"), make_name("Web.One"), make_name("a" * 70), make_name("a" * 71)}
    assert len(names) == 5


@pytest.mark.parametrize(
    ("text", "service"),
    [("nodes", ("", "nodes", Tier.CLOUD)), ("robots/nodes=edge", ("robots", "nodes", Tier.EDGE))],
)
def test_a_service_is_named_with_a_tier(text: str, service: tuple[str, str, Tier]) -> None:
    found = parse_service(text)
    assert (found.namespace, found.name, found.tier) == service


@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a/b/c", "a=far", "a=", "A", "a.b", "../x", "a b"])
def test_what_is_no_service_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected \[NAMESPACE/\]NAME\[=edge\|cloud\]"):
        parse_service(text)
