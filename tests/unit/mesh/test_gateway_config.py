"""The gateway's configuration is what was reviewed, and Envoy accepts it.

After a wanted change, run this file as a program: it writes the golden file anew. Read its diff.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from google.protobuf import json_format

from mesh.control.assignment import build_assignment
from mesh.control.messages import CLUSTER, LISTENER, ROUTES, parse_resource
from mesh.endpoint import Endpoint, Health, Tier
from mesh.gateway import (
    Balancer,
    GatewaySite,
    ModelRoute,
    Pool,
    Resource,
    Share,
    bootstrap,
    find_envoy,
    grpc_listener,
    nodes_cluster,
    route_configuration,
)
from mesh.gateway.routes import REPEATED_BYTES_MAX
from services.host import Address

_GOLDEN = Path(__file__).with_name("gateway.golden.json")
_LISTEN = Address("127.0.0.1", 50051)
_SITE = GatewaySite("gateway", _LISTEN, Address("127.0.0.1", 18000), "hall-2")
_ENDPOINTS = (
    Endpoint("edge-1", Tier.EDGE, Address("127.0.0.1", 9001), serves=("detector", "detector:1")),
    Endpoint("edge-2", Tier.EDGE, Address("127.0.0.1", 9002), Health.DRAINING),
    Endpoint("edge-3", Tier.EDGE, Address("127.0.0.1", 9004), Health.SILENT),
    Endpoint("cloud-1", Tier.CLOUD, Address("127.0.0.1", 9003)),
)
_MODELS = (
    ModelRoute("detector", Pool.NODES, (1, 2), {"canary": 2, "stable": 1}, (Share(1, 95.0), Share(2, 5.0))),
    ModelRoute("hears", Pool.SEQUENCES, (1,)),
    ModelRoute("tracks", Pool.AGENTS, (3,), {"stable": 3}, (Share(3, 100.0),)),
)
_WEIGHTS = {"edge-1": 900_000, "edge-2": 1, "edge-3": 1, "cloud-1": 100_000}


def build_all() -> Resource:
    """Returns everything that a gateway gets: its file, and what comes over the stream."""
    assignment = build_assignment("nodes", _ENDPOINTS, _WEIGHTS)
    return {
        "bootstrap": bootstrap(_SITE),
        "clusters": [nodes_cluster(pool=pool, are_asked=True) for pool in Pool],
        "listener": grpc_listener(_LISTEN),
        "routes": route_configuration(_MODELS[:1], are_all=True),
        "assignment": json_format.MessageToDict(assignment, preserving_proto_field_name=True),
    }


def build_static(balancer: Balancer = Balancer.LEAST_REQUEST) -> Resource:
    """Returns one file with all of it inside, which Envoy can judge without a control plane."""
    everything = build_all()
    whole: Resource = everything["bootstrap"]
    listener = everything["listener"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = route_configuration(_MODELS, are_all=True)
    for pool in Pool:
        cluster = nodes_cluster(balancer, pool, are_asked=True)
        del cluster["eds_cluster_config"]
        cluster |= {"type": "STATIC", "load_assignment": {**everything["assignment"], "cluster_name": str(pool)}}
        whole["static_resources"]["clusters"].append(cluster)
    whole["static_resources"]["listeners"] = [listener]
    return whole


def validate(config: Resource, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "gateway.json"
    path.write_text(json.dumps(config))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(path), "-l", "warning"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_configuration_is_the_reviewed_one() -> None:
    assert build_all() == json.loads(_GOLDEN.read_text())


@pytest.mark.parametrize("delta", [True, False])
def test_envoy_accepts_the_bootstrap(tmp_path: Path, delta: bool) -> None:
    done = validate(bootstrap(_SITE, delta=delta), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize("balancer", Balancer)
def test_envoy_accepts_what_comes_over_the_stream(tmp_path: Path, balancer: Balancer) -> None:
    done = validate(build_static(balancer), tmp_path)
    assert done.returncode == 0, done.stderr
    # A deprecated field or an ignored one would be a warning here.
    assert "warning" not in done.stderr


def test_envoy_refuses_a_field_that_does_not_exist(tmp_path: Path) -> None:
    config = build_static()
    config["static_resources"]["clusters"][0]["panic"] = 0
    assert validate(config, tmp_path).returncode != 0


@pytest.mark.parametrize("balancer", Balancer)
def test_every_resource_is_a_message(balancer: Balancer) -> None:
    for url, resource in (
        *((CLUSTER, nodes_cluster(balancer, pool)) for pool in Pool),
        (LISTENER, grpc_listener(_LISTEN)),
        (ROUTES, route_configuration(_MODELS)),
        (ROUTES, route_configuration()),
    ):
        assert parse_resource(url, resource).ByteSize() > 0


def test_an_unknown_field_is_no_message() -> None:
    with pytest.raises(json_format.ParseError, match="panic"):
        parse_resource(CLUSTER, {**nodes_cluster(), "panic": 0})


def test_the_resources_point_at_the_discovery_stream() -> None:
    ads = {"ads": {}, "resource_api_version": "V3"}
    cluster = nodes_cluster()
    assert (cluster["type"], cluster["eds_cluster_config"]) == ("EDS", {"eds_config": ads})
    manager = grpc_listener(_LISTEN)["filter_chains"][0]["filters"][0]
    name = route_configuration()["name"]
    assert manager["typed_config"]["rds"] == {"route_config_name": name, "config_source": ads}


def test_endpoints_come_in_one_locality_sorted_by_name() -> None:
    (locality,) = build_assignment("nodes", _ENDPOINTS, _WEIGHTS).endpoints
    named = [(e.endpoint.hostname, e.load_balancing_weight.value) for e in locality.lb_endpoints]
    assert named == [("cloud-1", 100_000), ("edge-1", 900_000), ("edge-2", 1), ("edge-3", 1)]


def test_a_cluster_without_nodes_is_empty_and_not_absent() -> None:
    assignment = build_assignment("nodes", (), {})
    assert (assignment.cluster_name, len(assignment.endpoints)) == ("nodes", 0)


def test_a_weight_of_zero_never_reaches_envoy() -> None:
    with pytest.raises(AssertionError, match="at least 1"):
        build_assignment("nodes", _ENDPOINTS, {**_WEIGHTS, "cloud-1": 0})


def test_a_full_hd_frame_can_be_repeated() -> None:
    assert REPEATED_BYTES_MAX > 1920 * 1080 * 3 + 1024


if __name__ == "__main__":
    _GOLDEN.write_text(json.dumps(build_all(), indent=1) + "\n")
