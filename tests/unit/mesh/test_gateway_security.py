"""A secure gateway's configuration is what was reviewed, Envoy accepts it, and nothing is open by accident.

After a wanted change, run this file as a program: it writes the golden file anew. Read its diff.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from starling.predict.v1 import model_service_pb2, predict_service_pb2

from mesh import gateway
from mesh.certs import CertStore, Identity, Role
from mesh.control.messages import CLUSTER
from mesh.control.resources import build_frame
from mesh.gateway import (
    Balancer,
    GatewaySite,
    ModelRoute,
    Resource,
    find_envoy,
    grpc_listener,
    nodes_cluster,
    route_configuration,
)
from mesh.gateway.bootstrap import CONTROL
from mesh.gateway.security import (
    Rate,
    RemoteKeys,
    SecurityPlan,
    build_secrets,
    further_clusters,
    read_security,
    secure_control,
    secure_listener,
    secure_nodes,
    write_security,
)
from mesh.gateway.security.limits import fill
from mesh.gateway.security.methods import INFER_METHODS
from mesh.gateway.security.transport import towards_control
from services.host import Address

_GOLDEN = Path(__file__).with_name("gateway_security.golden.json")

_PLAN = SecurityPlan(
    certificates=Path("/etc/starling/gateway"),
    secrets=Path("/run/starling"),
    keys='{"keys": []}',
    trust_domain="starling",
    issuer="starling-dev",
    audience="starling",
    rate_by_tenant={"gold": Rate(per_s=1000, burst=3000)},
)
_REMOTE = replace(
    _PLAN,
    keys=RemoteKeys("https://login.example.com/keys", Address("login.example.com", 443), Path("/etc/ssl/ca.crt")),
    rate_everywhere=True,
)


def build(plan: SecurityPlan) -> Resource:
    """Returns what is added to a gateway: the golden file shows only this."""
    listener = secure_listener(grpc_listener(Address("127.0.0.1", 50051)), plan)
    (chain,) = listener["filter_chains"]
    config = chain["filters"][0]["typed_config"]
    plain = grpc_listener(Address("127.0.0.1", 50051))["filter_chains"][0]["filters"][0]["typed_config"]
    return {
        "secrets": {str(path): resource for path, resource in build_secrets(plan).items()},
        "towards_agents": chain["transport_socket"],
        "towards_nodes": secure_nodes(nodes_cluster(), plan)["transport_socket"],
        "towards_control": towards_control(plan),
        "connection_manager": {key: value for key, value in config.items() if plain.get(key) != value},
        "further_clusters": list(further_clusters(plan)),
    }


def build_all() -> Resource:
    return {"local": build(_PLAN), "remote": build(_REMOTE)}


def test_the_configuration_is_the_reviewed_one() -> None:
    assert json.loads(json.dumps(build_all())) == json.loads(_GOLDEN.read_text())


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_envoy_accepts_the_configuration(tmp_path: Path, remote: bool) -> None:
    store, now = CertStore(tmp_path / "certs"), datetime.now(UTC)
    store.create("starling", now)
    folder = store.issue(Identity(Role.GATEWAY, "gateway"), now)
    plan = replace(_REMOTE if remote else _PLAN, certificates=folder, secrets=tmp_path)
    if isinstance(plan.keys, RemoteKeys):
        plan = replace(plan, keys=replace(plan.keys, ca=folder / "ca.crt"))
    else:
        plan = replace(plan, keys=(folder / "jwks.json").read_text())
    for path, resource in build_secrets(plan).items():
        path.write_text(json.dumps(resource))
    done = validate(tmp_path / "gateway.json", bootstrap(plan))
    assert done.returncode == 0, done.stderr
    # A deprecated field or an ignored one would be a warning. The issuer of this test is nowhere.
    warnings = [line for line in done.stderr.splitlines() if "warning" in line and "Jwks async fetching" not in line]
    assert not warnings


def test_envoy_accepts_the_bootstrap_that_knows_its_control_plane(tmp_path: Path) -> None:
    store, now = CertStore(tmp_path / "certs"), datetime.now(UTC)
    store.create("starling", now)
    plan = replace(_PLAN, certificates=store.issue(Identity(Role.GATEWAY, "gateway"), now), secrets=tmp_path)
    for path, resource in build_secrets(plan).items():
        path.write_text(json.dumps(resource))
    site = GatewaySite("gateway", Address("127.0.0.1", 0), Address("127.0.0.1", 18000))
    done = validate(tmp_path / "gateway.json", secure_control(gateway.bootstrap(site), plan))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def bootstrap(plan: SecurityPlan) -> Resource:
    """Returns a file with everything inside, around the resources that a discovery stream sends."""
    listener = secure_listener(grpc_listener(Address("127.0.0.1", 0)), plan)
    config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    config.pop("rds")
    config["route_config"] = route_configuration([ModelRoute("detector", versions=(1,))])
    nodes = secure_nodes(nodes_cluster(), plan)
    nodes.pop("eds_cluster_config")
    nodes.update(type="STATIC", load_assignment={"cluster_name": nodes["name"]})
    # The control plane's, which a bootstrap brings.
    control = {"name": CONTROL, "type": "STATIC", "load_assignment": {"cluster_name": CONTROL}}
    clusters = [nodes, control, *further_clusters(plan)]
    return {
        "node": {"id": "gateway", "cluster": "starling"},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


def validate(path: Path, config: Resource) -> subprocess.CompletedProcess[str]:
    path.write_text(json.dumps(config))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(path), "-l", "warning"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("plan", [_PLAN, _REMOTE], ids=["local", "remote"])
def test_the_control_plane_can_send_all_of_it(plan: SecurityPlan) -> None:
    frame = build_frame(Address("127.0.0.1", 1), Balancer.LEAST_REQUEST, plan)
    names = {"nodes"} | {cluster["name"] for cluster in further_clusters(plan)}
    assert set(frame.of_type(CLUSTER)) == names


@pytest.mark.parametrize("plan", [_PLAN, _REMOTE], ids=["local", "remote"])
def test_a_plan_comes_back_from_its_file(tmp_path: Path, plan: SecurityPlan) -> None:
    assert read_security(write_security(plan, tmp_path / "security.json")) == plan


def test_the_plain_resources_are_left_as_they_were() -> None:
    plain = grpc_listener(Address("127.0.0.1", 1))
    before = json.dumps(plain)
    secure_listener(plain, _PLAN)
    assert json.dumps(plain) == before


def test_no_private_key_is_part_of_the_configuration(tmp_path: Path) -> None:
    store, now = CertStore(tmp_path), datetime.now(UTC)
    store.create("starling", now)
    folder = store.issue(Identity(Role.GATEWAY, "gateway"), now)
    text = json.dumps(build(replace(_PLAN, certificates=folder, keys=(folder / "jwks.json").read_text())))
    assert "PRIVATE" not in text
    assert '"d"' not in text


def find_filter(name: str) -> Any:
    filters = build(_PLAN)["connection_manager"]["http_filters"]
    return next(one["typed_config"] for one in filters if one["name"].endswith(name))


def test_filters_come_in_the_order_that_makes_them_safe() -> None:
    names = [one["name"] for one in build(_REMOTE)["connection_manager"]["http_filters"]]
    short = [name.removeprefix("envoy.filters.http.") for name in names]
    assert short == [
        "lua",
        "jwt_authn",
        "rbac",
        "local_ratelimit",
        "ratelimit",
        *["match_delegate"] * 2,
        "header_mutation",
        "router",
    ]


def test_every_method_that_is_opened_exists() -> None:
    pool = descriptor_pool.Default()
    assert predict_service_pb2.DESCRIPTOR.package == model_service_pb2.DESCRIPTOR.package
    for path in INFER_METHODS:
        _, service, method = path.split("/")
        if service.startswith("starling."):
            assert method in pool.FindServiceByName(service).methods_by_name, path


def test_methods_that_change_a_node_need_an_admin() -> None:
    opened = json.dumps(find_filter("rbac")["rules"]["policies"]["infer"])
    for method in ("LoadModel", "UnloadModel", "RepositoryModelLoad", "SharedMemory", "TraceSetting", "LogSettings"):
        assert method not in opened


@pytest.mark.parametrize(("per_s", "burst"), [(1, 1), (3, 3), (7, 1), (20, 20), (500, 1000), (12_345, 1)])
def test_a_bucket_gives_its_rate_in_the_long_run(per_s: int, burst: int) -> None:
    bucket = fill(Rate(per_s, burst))
    interval_s = float(bucket["fill_interval"].removesuffix("s"))
    assert interval_s >= 0.049  # Envoy refuses less than 50 ms
    assert bucket["tokens_per_fill"] / interval_s == pytest.approx(per_s, rel=1e-3)
    assert bucket["max_tokens"] >= max(burst, bucket["tokens_per_fill"])


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (1, 0), (-5, 5)])
def test_a_rate_that_lets_nobody_through_is_refused(per_s: int, burst: int) -> None:
    with pytest.raises(ValueError, match="expected both >= 1"):
        Rate(per_s, burst)


def test_refusals_carry_their_reason_and_when_to_come_back() -> None:
    import base64

    reasons = {}
    for mapper in build(_PLAN)["connection_manager"]["local_reply_config"]["mappers"]:
        headers = {one["header"]["key"]: one["header"]["value"] for one in mapper["headers_to_add"]}
        encoded = headers["grpc-status-details-bin"]
        status = Status.FromString(base64.b64decode(encoded + "=" * (-len(encoded) % 4)))
        info, retry = ErrorInfo(), RetryInfo()
        assert any(detail.Unpack(info) for detail in status.details)
        assert status.code == int(headers["grpc-status"])
        has_retry = any(detail.Unpack(retry) for detail in status.details)
        reasons[info.reason] = (status.code, has_retry)
    assert reasons == {
        "TOKEN_REFUSED": (16, False),
        "NOT_ALLOWED": (7, False),
        "TENANT_OVER_RATE": (8, True),
        "MODEL_NOT_FOUND": (5, False),
        "NO_NODE": (14, True),
    }


if __name__ == "__main__":
    _GOLDEN.write_text(json.dumps(build_all(), indent=1) + "\n")
