"""Weights prefer the near node, starve nobody and are never zero."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.weights import FLOOR, WEIGHT_SUM, Endpoint, Tier, prior_weights
from services.host import Address

_LATENCY_MS = st.floats(0.1, 10_000)


def build_endpoints(edges: int, clouds: int) -> list[Endpoint]:
    tiers = [Tier.EDGE] * edges + [Tier.CLOUD] * clouds
    return [Endpoint(f"n{i}", tier, Address("127.0.0.1", i + 1)) for i, tier in enumerate(tiers)]


def test_the_default_mesh_prefers_its_edges() -> None:
    weights = prior_weights(build_endpoints(2, 1))
    assert weights == {"n0": 474, "n1": 474, "n2": 53}


def test_no_nodes_have_no_weights() -> None:
    assert prior_weights([]) == {}


def test_equal_latencies_give_equal_weights() -> None:
    same = {Tier.EDGE: 7.0, Tier.CLOUD: 7.0}
    assert set(prior_weights(build_endpoints(2, 2), same).values()) == {WEIGHT_SUM // 4}


@settings(deadline=None)
@given(st.integers(0, 8), st.integers(0, 8), _LATENCY_MS, _LATENCY_MS, st.floats(0, 6))
def test_every_node_keeps_a_share(edges: int, clouds: int, edge_ms: float, cloud_ms: float, exponent: float) -> None:
    latency_ms = {Tier.EDGE: edge_ms, Tier.CLOUD: cloud_ms}
    endpoints = build_endpoints(edges, clouds)
    weights = prior_weights(endpoints, latency_ms, exponent=exponent)
    assert set(weights) == {e.name for e in endpoints}
    # The floor is taken before the shares are made to sum to one again.
    least = FLOOR * WEIGHT_SUM / (1 + FLOOR * len(endpoints))
    assert all(w >= max(1, int(least)) for w in weights.values())
    assert sum(weights.values()) <= WEIGHT_SUM + len(endpoints)


@settings(deadline=None)
@given(_LATENCY_MS, _LATENCY_MS)
def test_the_nearer_tier_never_weighs_less(edge_ms: float, cloud_ms: float) -> None:
    weights = prior_weights(build_endpoints(1, 1), {Tier.EDGE: edge_ms, Tier.CLOUD: cloud_ms})
    assert (weights["n0"] >= weights["n1"]) == (edge_ms <= cloud_ms) or weights["n0"] == weights["n1"]
