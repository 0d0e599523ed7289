"""The gateway's configuration is what was reviewed, and Envoy accepts it.

After a wanted change, run this file as a program: it writes the golden file anew. Read its diff.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mesh.gateway import (
    Resource,
    find_envoy,
    grpc_listener,
    load_assignment,
    nodes_cluster,
    route_configuration,
    static_bootstrap,
)
from mesh.gateway.routes import REPEATED_BYTES_MAX
from mesh.weights import Endpoint, Tier, prior_weights
from services.host import Address

_GOLDEN = Path(__file__).with_name("gateway.golden.json")

_ENDPOINTS = (
    Endpoint("edge-1", Tier.EDGE, Address("127.0.0.1", 9001)),
    Endpoint("edge-2", Tier.EDGE, Address("127.0.0.1", 9002)),
    Endpoint("cloud-1", Tier.CLOUD, Address("127.0.0.1", 9003)),
)


def build_bootstrap() -> Resource:
    return static_bootstrap(Address("127.0.0.1", 50051), _ENDPOINTS, prior_weights(_ENDPOINTS))


def test_the_configuration_is_the_reviewed_one() -> None:
    assert build_bootstrap() == json.loads(_GOLDEN.read_text())


def test_envoy_accepts_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "gateway.json"
    config.write_text(json.dumps(build_bootstrap()))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(config), "-l", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    # A deprecated field or an ignored one would be a warning here.
    assert "warning" not in done.stderr


def test_envoy_refuses_a_field_that_does_not_exist(tmp_path: Path) -> None:
    bootstrap = build_bootstrap()
    bootstrap["static_resources"]["clusters"][0]["panic"] = 0
    config = tmp_path / "gateway.json"
    config.write_text(json.dumps(bootstrap))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0


def test_without_contents_the_resources_point_at_the_discovery_stream() -> None:
    ads = {"ads": {}, "resource_api_version": "V3"}
    cluster = nodes_cluster()
    assert (cluster["type"], cluster["eds_cluster_config"]) == ("EDS", {"eds_config": ads})
    manager = grpc_listener(Address("127.0.0.1", 1))["filter_chains"][0]["filters"][0]
    assert manager["typed_config"]["rds"] == {
        "route_config_name": route_configuration(cluster["name"])["name"],
        "config_source": ads,
    }


def test_endpoints_come_in_one_locality_sorted_by_name() -> None:
    assignment = load_assignment(_ENDPOINTS, {"edge-1": 5, "edge-2": 4, "cloud-1": 1})
    (locality,) = assignment["endpoints"]
    named = [(e["endpoint"]["hostname"], e["load_balancing_weight"]) for e in locality["lb_endpoints"]]
    assert named == [("cloud-1", 1), ("edge-1", 5), ("edge-2", 4)]


def test_a_weight_of_zero_never_reaches_envoy() -> None:
    with pytest.raises(AssertionError, match="at least 1"):
        load_assignment(_ENDPOINTS, {"edge-1": 5, "edge-2": 4, "cloud-1": 0})


def test_a_full_hd_frame_can_be_repeated() -> None:
    assert REPEATED_BYTES_MAX > 1920 * 1080 * 3 + 1024


if __name__ == "__main__":
    _GOLDEN.write_text(json.dumps(build_bootstrap(), indent=1) + "\n")
