"""The mesh as a table: what the control plane sees, for people."""

from __future__ import annotations

import time
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from starling.mesh.v1 import control_service_pb2 as pb
from starling.mesh.v1 import node_service_pb2 as nodes_pb

_HEALTH = {
    pb.NODE_HEALTH_SERVING: ("serving", "green"),
    pb.NODE_HEALTH_DRAINING: ("draining", "yellow"),
    pb.NODE_HEALTH_SILENT: ("silent", "red"),
}
_NAMES_MAX = 8
_LOOKS: dict[str, Any] = {
    "title_justify": "left",
    "title_style": "bold",
    "header_style": "dim",
    "box": SIMPLE_HEAD,
    "pad_edge": False,
}
_WORDS = ("node", "health")
_COLUMNS = (*_WORDS, "share", "latency", "p50", "p95", "/s", "in\nflight", "refused", "failed", "cpu")


def build_status(mesh: Any, now_s: float | None = None) -> RenderableType:
    """Returns one table per viewpoint, the gateways, and the alarms.

    Args:
        mesh: a `GetMeshResponse`.
        now_s: seconds since 1970; the time of the call when absent.
    """
    now_s = time.time() if now_s is None else now_s
    nodes = {node.name: node for node in mesh.nodes}
    parts: list[RenderableType] = []
    for viewpoint in mesh.viewpoints:
        parts += [_viewpoint(viewpoint, nodes), _changes(viewpoint, nodes, now_s)]
    if not mesh.viewpoints:
        parts.append(Text(f"{len(nodes)} nodes, no gateway yet"))
    if models := _models(mesh):
        parts.append(models)
    parts += [build_route(route) for route in mesh.routes]
    parts += [_gateway(gateway) for gateway in mesh.gateways]
    parts += [Text.assemble(("alarm ", "bold red"), alarm) for alarm in mesh.alarms]
    return Group(*parts)


def _viewpoint(viewpoint: Any, nodes: dict[str, Any]) -> Table:
    # As narrow as it can be, for terminals of 80 columns; only the names of nodes break.
    table = Table(title=f"seen from {viewpoint.name}, times in ms", **_LOOKS, padding=0)
    for column in _COLUMNS:
        table.add_column(
            column, justify="left" if column in _WORDS else "right", no_wrap=column != "node", overflow="fold"
        )
    for weight in viewpoint.weights:
        node = nodes.get(weight.node)
        health, colour = _HEALTH.get(weight.health, ("", ""))
        load = f"{node.load.cpu_ratio:.0%}" if node is not None and node.HasField("load") else ""
        table.add_row(
            weight.node,
            f"[{colour}]{health}[/]" if colour else health,
            f"{weight.share:.1%}",
            _ms(weight, "latency"),
            _ms(weight, "p50"),
            _ms(weight, "p95"),
            f"{weight.rate:.0f}",
            f"{weight.in_flight:.1f}",
            _percent(weight.refused_ratio),
            _percent(weight.failed_ratio),
            load,
        )
    return table


def _changes(viewpoint: Any, nodes: dict[str, Any], now_s: float) -> Table:
    """Returns where each node stands and why it has its share: the last change."""
    grid = Table.grid(padding=(0, 2, 0, 1), pad_edge=True)
    grid.add_column(no_wrap=True)
    for weight in viewpoint.weights:
        node = nodes.get(weight.node)
        tier = nodes_pb.Tier.Name(node.tier).removeprefix("TIER_").lower() if node is not None else ""
        age_s = now_s - weight.change_time.ToNanoseconds() / 1e9
        grid.add_row(weight.node, tier, f"{weight.reason}, {max(0.0, age_s):.0f} s ago")
    return grid


def build_route(route: Any) -> Text:
    """Returns what an operator wants of the calls for a model."""
    shares = (f", {label.percent:g} %" if label.percent else "" for label in route.labels)
    labels = "  ".join(
        f"{label.name}: version {label.version}{share}" for label, share in zip(route.labels, shares, strict=True)
    )
    return Text.assemble((f"route {route.model_name} ", "bold"), labels)


def _models(mesh: Any) -> Table | None:
    """Returns which nodes have which version; None without any."""
    nodes: dict[tuple[str, int], list[str]] = {}
    for node in mesh.nodes:
        for model in node.models:
            if model.ready and node.state != nodes_pb.NODE_STATE_LOST:
                nodes.setdefault((model.name, model.version), []).append(node.name)
    if not nodes:
        return None
    table = Table("model", "version", "on", title="models", **_LOOKS)
    for (name, version), names in sorted(nodes.items()):
        shown = ", ".join(names[:_NAMES_MAX])
        more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
        table.add_row(name, str(version), shown + more)
    return table


def _gateway(gateway: Any) -> Text:
    ack = f", last in {gateway.ack_time.ToNanoseconds() / 1e6:.1f} ms" if gateway.HasField("ack_time") else ""
    said = f"{gateway.listen_address}  {gateway.accepted_count} of {gateway.pushed_count} configurations taken{ack}"
    return Text.assemble((f"gateway {gateway.name} ", "bold"), said)


def _ms(weight: Any, name: str) -> str:
    if not weight.HasField(name):
        return "-"
    latency_ms = getattr(weight, name).ToNanoseconds() / 1e6
    return f"{latency_ms:.1f}" if latency_ms < 100 else f"{latency_ms:.0f}"


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio else "-"
