"""Which models there are and where their calls go, from what nodes have and operators want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.errors import InvalidRoute, RoutesNotWritten
from mesh.control.model_routes import (
    Found,
    Label,
    RoutePlan,
    build_routes,
    find_models,
    find_route_alarms,
    read_serves,
)
from mesh.control.route_file import read_routes, write_routes
from mesh.gateway import ModelRoute, Pool, Share


def model(name: str, version: int, *, ready: bool = True, affinity: Any = pb.AFFINITY_UNSPECIFIED) -> pb.NodeModel:
    return pb.NodeModel(name=name, version=version, ready=ready, affinity=affinity)


def plan(*labels: tuple[str, int, float], name: str = "m") -> RoutePlan:
    return RoutePlan(name, tuple(Label(*label) for label in labels))


def find(*nodes: list[pb.NodeModel]) -> dict[str, Found]:
    return find_models((models, True) for models in nodes)


def test_a_node_answers_for_what_is_ready() -> None:
    served = read_serves([model("m", 1), model("m", 3), model("m", 4, ready=False), model("n", 2)])
    assert served == ("m", "m:1", "m:3", "n", "n:2")


def test_without_a_plan_any_node_that_has_the_model_is_asked() -> None:
    found = find([model("m", 1)], [model("m", 2), model("n", 1, ready=False)])
    assert build_routes(found, {}) == (ModelRoute("m", versions=(1, 2)), ModelRoute("n", versions=(1,)))


def test_the_strongest_affinity_that_a_node_asks_for_counts() -> None:
    nodes = [
        [model("seen", 1), model("heard", 1, affinity=pb.AFFINITY_AGENT)],
        [model("heard", 1, affinity=pb.AFFINITY_SEQUENCE), model("cached", 1, affinity=pb.AFFINITY_AGENT)],
    ]
    pools = {route.name: route.pool for route in build_routes(find(*nodes), {})}
    assert pools == {"seen": Pool.NODES, "heard": Pool.SEQUENCES, "cached": Pool.AGENTS}


def test_an_affinity_of_a_newer_node_is_none() -> None:
    newer = pb.NodeModel(name="m", version=1, ready=True)
    newer.MergeFromString(b"\x30\x63")  # field 6 is 99
    assert build_routes(find([newer]), {}) == (ModelRoute("m", versions=(1,)),)


def test_labels_and_shares_are_versions_whichever_others_a_node_has() -> None:
    found = find([model("m", 1), model("m", 2)])
    (route,) = build_routes(found, {"m": plan(("stable", 1, 90), ("canary", 2, 10))})
    assert route.labels == {"stable": 1, "canary": 2}
    assert route.shares == (Share(1, 90), Share(2, 10))


def test_the_share_of_a_version_that_no_node_runs_goes_to_the_others() -> None:
    found = find([model("m", 1, ready=False), model("m", 2)], [model("m", 3)])
    plans = {"m": plan(("old", 1, 50), ("stable", 2, 40), ("canary", 3, 10), ("next", 4, 0))}
    (route,) = build_routes(found, plans)
    assert route.shares == (Share(2, 80), Share(3, 20))
    assert route.labels == {"old": 1, "stable": 2, "canary": 3}, "of version 4 nobody has heard"
    assert list(find_route_alarms(found, plans)) == [
        "label old of m is version 1, which no node runs; its 50 % go to the other labels",
        "label next of m is version 4, which no node runs",
    ]


def test_the_share_of_a_version_goes_to_the_others_while_its_nodes_are_away() -> None:
    found = find_models([([model("m", 1)], True), ([model("m", 2)], False)])
    (route,) = build_routes(found, {"m": plan(("stable", 1, 80), ("canary", 2, 20))})
    assert (route.versions, route.shares) == ((1, 2), (Share(1, 100),))


def test_a_plan_for_a_model_that_no_node_has_is_kept_and_told() -> None:
    plans = {"m": plan(("stable", 1, 0))}
    assert build_routes({}, plans) == ()
    assert list(find_route_alarms({}, plans)) == ["label stable of m is version 1, which no node runs"]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((), "0 labels"),
        ((("Stable", 1, 0),), "is no label"),
        ((("a", 1, 50), ("a", 2, 50)), "given twice"),
        ((("a", 0, 0),), "expected >= 1"),
        ((("a", 1, 101),), "expected 0 to 100"),
        ((("a", 1, float("nan")),), "expected 0 to 100"),
        ((("a", 1, 30), ("b", 2, 30)), "sum to 60 %"),
        (tuple((f"l{i}", 1, 0) for i in range(17)), "17 labels"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(labels: tuple[tuple[str, int, float], ...], says: str) -> None:
    with pytest.raises(InvalidRoute, match=says):
        plan(*labels)
    with pytest.raises(InvalidRoute, match="no model's name"):
        plan(("a", 1, 0), name="a b")


def test_routes_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "routes.json"
    assert read_routes(path) == {}
    plans = {"m": plan(("stable", 1, 95), ("canary", 2, 5)), "n": plan(("stable", 7, 0), name="n")}
    write_routes(path, plans)
    assert read_routes(path) == plans
    write_routes(path, {})
    assert read_routes(path) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["routes.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"m": 3}', '{"m": {"a": {"versio": 1}}}', '{"m": {"a": {"version": 0}}}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "routes.json"
    path.write_text(text)
    with pytest.raises(InvalidRoute):
        read_routes(path)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RoutesNotWritten, match="nothing has changed"):
        write_routes(tmp_path / "missing" / "routes.json", {})
