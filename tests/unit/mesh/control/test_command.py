"""What `starling mesh` says when it cannot do what was asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from starling.mesh.v1 import control_service_pb2 as pb
from starling.mesh.v1 import control_service_pb2_grpc, node_service_pb2_grpc
from starling.mesh.v1 import node_service_pb2 as nodes_pb

from mesh.control.command import ControlRefused, ControlUnreachable, find_unserved, main


class Refusing(node_service_pb2_grpc.NodeServiceServicer):
    """Knows no nodes."""

    def DrainNode(self, request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.NOT_FOUND, f"no node is called {request.name!r}")


@pytest.fixture
def control() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    node_service_pb2_grpc.add_NodeServiceServicer_to_server(Refusing(), server)  # type: ignore[no-untyped-call]
    control_service_pb2_grpc.add_ControlServiceServicer_to_server(  # type: ignore[no-untyped-call]
        control_service_pb2_grpc.ControlServiceServicer(), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_refusal_is_told_in_the_control_planes_own_words(control: str) -> None:
    with pytest.raises(ControlRefused) as caught:
        main(["drain", "edge-7", "--control", control])
    assert str(caught.value) == f"control plane {control}: NOT_FOUND: no node is called 'edge-7'"


def test_who_is_not_reached_or_is_no_control_plane_is_told_with_how_to_name_one(control: str) -> None:
    with pytest.raises(ControlUnreachable, match=rf"{control}: UNIMPLEMENTED: .*; `starling up` prints its address"):
        main(["status", "--control", control])
    with pytest.raises(ControlUnreachable, match=r"127\.0\.0\.1:1: UNAVAILABLE: ipv4:.*--control HOST:PORT names it"):
        main(["status", "--control", "127.0.0.1:1"])


def test_a_route_to_what_no_node_has_is_told() -> None:
    ready, failed = nodes_pb.NodeModel(name="m", version=1, ready=True), nodes_pb.NodeModel(name="m", version=2)
    mesh = pb.GetMeshResponse(nodes=[nodes_pb.Node(name="edge-1", models=[ready, failed])])
    stable, canary = (pb.VersionLabel(name=n, version=v, percent=50) for n, v in (("stable", 1), ("canary", 2)))
    said = "no node has m:2 ready; until one has, calls for label canary are refused"
    assert find_unserved(pb.ModelRoute(model_name="m", labels=[stable]), mesh) == []
    route = pb.ModelRoute(model_name="m", labels=[stable, canary])
    assert find_unserved(route, mesh) == [f"{said}; its share goes to the other labels"]
    assert find_unserved(pb.ModelRoute(model_name="m", labels=[canary]), mesh) == [said]
