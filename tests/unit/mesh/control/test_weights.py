"""Weights prefer the near node, starve nobody, are never zero, and change only when there is a reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mesh.control.latency import Latency
from mesh.control.weights import WEIGHT_SUM, Candidate, Plan, Rules, target_shares, weigh
from mesh.endpoint import Health

_RULES = Rules()


def believe(latency_s: float, best_s: float | None = None) -> Latency:
    return Latency(latency_s, latency_s, latency_s if best_s is None else best_s, 0.0, 0.0)


def candidates(*latencies_s: float) -> list[Candidate]:
    return [Candidate(f"n{i}", believe(latency_s)) for i, latency_s in enumerate(latencies_s)]


def settle(nodes: list[Candidate], now_s: float = 0.0) -> Plan:
    return weigh(Plan(), nodes, 120.0, now_s)


def test_the_far_nodes_together_get_less_than_a_twentieth() -> None:
    shares = target_shares(candidates(0.012, 0.042, 0.072), rate=120)
    assert shares["n1"] + shares["n2"] < 0.03


def test_equal_nodes_get_equal_weights() -> None:
    assert set(settle(candidates(*[0.01] * 4)).weights.values()) == {WEIGHT_SUM // 4}


def test_no_nodes_have_no_weights() -> None:
    assert settle([]).weights == {}


def test_a_node_that_may_recover_is_tried_more_than_one_that_is_as_good_as_it_gets() -> None:
    nodes = [Candidate("near", believe(0.08, best_s=0.01)), Candidate("far", believe(0.04))]
    worse = target_shares([*nodes, Candidate("farther", believe(0.16))], rate=1000)
    assert worse["near"] >= _RULES.explore_part / 3 > 4 * worse["farther"]


def test_a_node_that_fails_gets_the_floor_and_no_more_and_the_reason_says_so() -> None:
    nodes = candidates(0.01, 0.01, 0.01)
    plan = weigh(settle(nodes), nodes, 1000, 10.0)
    broken = replace(believe(0.1, best_s=0.01), failed_ratio=0.97)
    plan = weigh(plan, [Candidate("n0", broken), *nodes[1:]], 1000, 20.0)
    assert plan.nodes["n0"].share < _RULES.floor_part / 3 * 1.1
    assert plan.nodes["n0"].reason == "fails 97% of its requests"


def test_a_quiet_mesh_explores_more_than_a_busy_one() -> None:
    quiet, busy = (target_shares(candidates(0.01, 0.1), rate)["n1"] for rate in (1, 1000))
    assert busy < 0.01 < quiet


def test_small_changes_are_none() -> None:
    plan = settle(candidates(0.010, 0.010))
    assert weigh(plan, candidates(0.0103, 0.010), 120, 100.0) is plan


def test_changes_wait_for_their_interval() -> None:
    plan = settle(candidates(0.010, 0.010))
    changed = candidates(0.0125, 0.010)
    assert weigh(plan, changed, 120, 1.0) is plan
    assert weigh(plan, changed, 120, 2.0) is not plan


def test_a_node_that_becomes_much_slower_is_urgent() -> None:
    plan = settle(candidates(0.010, 0.010))
    urgent = weigh(plan, candidates(0.080, 0.010), 120, 0.25)
    assert urgent.nodes["n0"].share < 0.06
    assert urgent.nodes["n0"].reason == "slower, 10 ms → 80 ms"
    assert urgent.nodes["n1"].reason == "others changed"


def test_a_node_that_drains_is_out_at_once_and_keeps_a_legal_weight() -> None:
    plan = settle(candidates(0.010, 0.010))
    nodes = candidates(0.010, 0.010)
    nodes[0] = replace(nodes[0], health=Health.DRAINING)
    drained = weigh(plan, nodes, 120, 0.01)
    assert (drained.nodes["n0"].weight, drained.nodes["n0"].share) == (1, 0.0)
    assert drained.nodes["n0"].reason == "drains"
    assert drained.nodes["n1"].share == 1.0


def test_a_node_that_left_is_forgotten_and_one_that_joined_starts_slowly() -> None:
    plan = settle(candidates(0.010, 0.010))
    fresh = [*candidates(0.010), Candidate("new", believe(0.010), age_s=0.0)]
    joined = weigh(plan, fresh, 120, 0.1)
    assert set(joined.nodes) == {"n0", "new"}
    assert joined.nodes["new"].share < 0.15
    grown = weigh(joined, [*candidates(0.010), Candidate("new", believe(0.010), age_s=10.0)], 120, 10.0)
    assert 0.45 < grown.nodes["new"].share < 0.55


def test_a_node_that_swings_moves_less_each_time() -> None:
    plan, now_s, moves = settle(candidates(0.010, 0.010)), 0.0, []
    for i in range(6):
        now_s += 2.0
        before = plan.nodes["n0"].share
        plan = weigh(plan, candidates(0.015 if i % 2 == 0 else 0.0067, 0.010), 120, now_s)
        moves.append(abs(plan.nodes["n0"].share - before))
    assert moves[-1] < moves[1] / 2
    assert plan.nodes["n0"].gain < 1.0


_LATENCIES = st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=30)


@given(_LATENCIES, st.floats(0, 1e5), st.data())
def test_shares_are_a_distribution_with_floors(latencies_s: list[float], rate: float, data: st.DataObject) -> None:
    nodes = [
        Candidate(
            f"n{i}",
            believe(latency_s, data.draw(st.floats(1e-5, latency_s))),
            data.draw(st.sampled_from(Health)),
            data.draw(st.floats(0, 100)),
        )
        for i, latency_s in enumerate(latencies_s)
    ]
    serving = [n for n in nodes if n.health is Health.SERVING]
    shares = target_shares(nodes, rate)
    assert set(shares) == {n.name for n in nodes}
    if serving:
        assert abs(sum(shares.values()) - 1) < 1e-9
        floors = len(serving) * _RULES.floor_max + _RULES.explore_part
        least = _RULES.floor_part / len(serving) * min(1.0, _RULES.floors_max / floors)
        assert all(shares[n.name] >= least for n in serving)
    weights = weigh(Plan(), nodes, rate, 0.0).weights
    assert all(weight >= 1 for weight in weights.values())
    assert sum(weights.values()) < 2**32


@given(st.floats(1e-3, 1.0), st.floats(1e-3, 1.0))
def test_the_faster_node_never_weighs_less(one_s: float, other_s: float) -> None:
    shares = target_shares(candidates(one_s, other_s), rate=100)
    assert (shares["n0"] >= shares["n1"]) == (one_s <= other_s) or abs(shares["n0"] - shares["n1"]) < 1e-9


@given(st.lists(st.lists(st.floats(1e-3, 1.0), min_size=3, max_size=3), max_size=40))
def test_changes_are_never_closer_than_the_urgent_interval(steps: list[list[float]]) -> None:
    plan, times = settle(candidates(0.01, 0.01, 0.01)), [0.0]
    for i, latencies_s in enumerate(steps):
        now_s = 0.05 * (i + 1)
        after = weigh(plan, candidates(*latencies_s), 120, now_s)
        if after is not plan:
            times.append(now_s)
        plan = after
        assert abs(sum(node.share for node in plan.nodes.values()) - 1) < 1e-9
    assert all(b - a >= _RULES.urgent_interval_s - 1e-9 for a, b in pairwise(times))
