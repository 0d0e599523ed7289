"""A plan says what is wrong with it, gives every host one address, and finds the way between any two."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.testbed import BadPlan, Link, Route, Shape, TestbedPlan, parse_plan, read_plan

LINE = TestbedPlan("line", (Link("a", "b", Shape(5)), Link("b", "c", Shape(20)), Link("c", "d")))


def test_hosts_are_those_that_are_linked_each_with_one_address() -> None:
    assert LINE.hosts == ("a", "b", "c", "d")
    assert [LINE.get_address(host) for host in LINE.hosts] == ["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"]


def test_every_host_has_a_route_to_every_other() -> None:
    routes = set(LINE.get_routes())
    assert len(routes) == 12
    assert {Route("a", "d", "b"), Route("b", "d", "c"), Route("d", "a", "c"), Route("a", "b", "b")} <= routes
    assert [link.name for link in LINE.get_path("d", "a")] == ["c-d", "b-c", "a-b"]
    assert LINE.get_path("a", "a") == ()


def test_the_shortest_way_wins_and_of_these_the_fastest() -> None:
    slow, fast = Shape(50), Shape(1)
    diamond = TestbedPlan("d", (Link("a", "b", slow), Link("b", "d", slow), Link("a", "c", fast), Link("c", "d", fast)))
    assert [link.name for link in diamond.get_path("a", "d")] == ["a-c", "c-d"]
    direct = TestbedPlan("t", (*diamond.links, Link("a", "d", Shape(500))))
    assert [link.name for link in direct.get_path("a", "d")] == ["a-d"]


def test_statements_are_what_the_wire_reads() -> None:
    plan = TestbedPlan("t", (Link("edge", "cloud", Shape(20, 3, 0.01, 100)),))
    assert plan.to_statements() == (
        "host edge 10.77.0.1",
        "host cloud 10.77.0.2",
        "link edge-cloud edge cloud delay_ms=20 jitter_ms=3 loss=0.01 rate_mbit=100 reorder=0 buffer_ms=200",
        "route edge cloud cloud",
        "route cloud edge edge",
    )


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ((), "there is no link"),
        ((Link("a", "a"),), "link a-a joins a host to itself"),
        ((Link("a", "b"), Link("b", "a")), "link b-a is there twice"),
        ((Link("a", "b"), Link("c", "d")), "c, d cannot be reached from a"),
        ((Link("Edge 1", "b"),), "host 'Edge 1' needs another name"),
        ((Link("a-name-too-long-", "b"),), "at most 15"),
        ((Link("a", "lo"),), "host 'lo' needs another name"),
        ((Link("a", "b", Shape(loss=1.5)),), "link a-b: loss is 1.5, expected a number from 0 to 1"),
        ((Link("a", "b", Shape(delay_ms=-1)),), "delay_ms is -1"),
        ((Link("a", "b", Shape(delay_ms=float("nan"))),), "delay_ms is nan"),
        (tuple(Link("a", f"h{n}") for n in range(64)), "there are 65 hosts, at most 64"),
    ],
)
def test_what_cannot_be_is_named(links: tuple[Link, ...], said: str) -> None:
    with pytest.raises(BadPlan) as refused:
        TestbedPlan("t", links).check()
    assert said in str(refused.value)
    assert (refused.value.status, refused.value.reason) == ("INVALID_ARGUMENT", "BAD_TESTBED_PLAN")


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(BadPlan) as refused:
        TestbedPlan("NO", (Link("a", "a", Shape(loss=2)), Link("B", "c"))).check()
    assert len(refused.value.problems) == 5


def test_a_plan_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "lte.toml"
    path.write_text('seed = 4\n[[link]]\nbetween = ["edge", "cloud"]\ndelay_ms = 20\nloss = 0.01\n')
    assert read_plan(path, "lte") == TestbedPlan("lte", (Link("edge", "cloud", Shape(20, loss=0.01)),), 4)


def test_a_file_that_is_no_plan_is_refused_with_its_reasons(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[[link\n")
    with pytest.raises(BadPlan, match=r"bad\.toml"):
        read_plan(path, "bad")
    with pytest.raises(BadPlan, match="absent"):
        read_plan(tmp_path / "absent.toml", "bad")
    wrong = {"hosts": [], "seed": -1, "link": [{"between": "ab"}, {"between": ["a", "b"], "mtu": 9}, 7]}
    with pytest.raises(BadPlan) as refused:
        parse_plan(wrong, "bad")
    text = str(refused.value)
    assert all(part in text for part in ("'hosts'", "seed is -1", "between is 'ab'", "'mtu'", "link is 7"))
    with pytest.raises(BadPlan, match="delay_ms is '5'"):
        parse_plan({"link": [{"between": ["a", "b"], "delay_ms": "5"}]}, "bad")


def test_a_shape_is_said_in_few_words() -> None:
    assert str(Shape()) == "0 ms"
    assert str(Shape(20, 3, 0.01, 100, 0.05)) == "20 ms ± 3 ms, 1 % lost, 100 Mbit/s, 5 % reordered"
    assert str(Shape(20, loss=1)) == "cut"
