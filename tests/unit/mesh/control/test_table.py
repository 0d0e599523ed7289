"""What `starling mesh status` shows."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from starling.mesh.v1 import control_service_pb2 as pb
from starling.mesh.v1 import node_service_pb2 as nodes_pb

from mesh.control.table import build_status


def show(mesh: pb.GetMeshResponse) -> list[str]:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(build_status(mesh, now_s=1172))
    return [line.rstrip() for line in shown.get().splitlines()]


def weight(node: str, health: pb.NodeHealth, *, share: float, latency_ms: int, reason: str) -> pb.NodeWeight:
    latency, then = Duration(nanos=latency_ms * 1_000_000), Timestamp(seconds=1000)
    return pb.NodeWeight(
        node=node, health=health, share=share, latency=latency, rate=22, reason=reason, change_time=then
    )


def test_a_terminal_of_80_columns_shows_every_figure_and_why_it_is_so() -> None:
    weights = [
        weight("edge-1", pb.NODE_HEALTH_SERVING, share=0.952, latency_ms=25, reason="slower 20 ms → 24.9 ms"),
        weight("warehouse-7-edge-2", pb.NODE_HEALTH_DRAINING, share=0.048, latency_ms=912, reason="drains"),
    ]
    nodes = [
        nodes_pb.Node(name=one.node, tier=nodes_pb.TIER_EDGE, load=nodes_pb.LoadReport(cpu_ratio=0.83))
        for one in weights
    ]
    lines = show(pb.GetMeshResponse(nodes=nodes, viewpoints=[pb.Viewpoint(name="gateway", weights=weights)]))
    rows = [" ".join(line.split()) for line in lines]
    assert "node health share latency p50 p95 /s flight refused failed cpu" in rows
    assert "edge-1 serving 95.2% 25.0 - - 22 0.0 - - 83%" in rows
    assert any(row.endswith(" draining 4.8% 912 - - 22 0.0 - - 83%") for row in rows)
    assert " edge-1              edge  slower 20 ms → 24.9 ms, 172 s ago" in lines
    assert " warehouse-7-edge-2  edge  drains, 172 s ago" in lines
    assert not any("…" in line for line in lines)


def test_a_mesh_without_a_gateway_says_so() -> None:
    assert show(pb.GetMeshResponse(nodes=[nodes_pb.Node(name="edge-1")]))[0] == "1 nodes, no gateway yet"
