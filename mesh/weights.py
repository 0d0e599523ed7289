"""Endpoint weights: how much traffic each node gets before any latency was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.host import Address

WEIGHT_SUM = 1000
"""Weights are parts of this sum: steps of 0.1 %, far below Envoy's bound of 2^32."""


class Tier(StrEnum):
    """Where a node stands, seen from the agents."""

    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One node as the gateway reaches it.

    Attributes:
        name: the node's name, unique in the mesh.
        tier: where it stands.
        address: where its gRPC server, or the delay before it, listens.
    """

    name: str
    tier: Tier
    address: Address


PRIOR_LATENCY_MS: Mapping[Tier, float] = {
    Tier.EDGE: 20.0,  # one detector frame on one core
    Tier.CLOUD: 60.0,  # the same behind a 40 ms round trip
}

FLOOR = 0.03
"""Least share of a node: below it too few answers tell that it has become the better one."""


def prior_weights(
    endpoints: Sequence[Endpoint],
    latency_ms_by_tier: Mapping[Tier, float] = PRIOR_LATENCY_MS,
    *,
    exponent: float = 2.0,
    floor: float = FLOOR,
) -> dict[str, int]:
    """Returns a weight >= 1 by node name, proportional to 1 / latency^exponent.

    Args:
        endpoints: every node of the cluster, names unique.
        latency_ms_by_tier: expected time to an answer, > 0.
        exponent: how steeply a far node is avoided; the gateway's least-request policy multiplies
            the weight by 1 / (1 + requests under way), so a busy edge still overflows to the cloud.
        floor: least share of the sum that any node gets, in [0, 1).

    >>> near = Endpoint("edge-1", Tier.EDGE, Address("127.0.0.1", 1))
    >>> far = Endpoint("cloud-1", Tier.CLOUD, Address("127.0.0.1", 2))
    >>> prior_weights([near, far])
    {'edge-1': 900, 'cloud-1': 100}
    """
    raw = {e.name: latency_ms_by_tier[e.tier] ** -exponent for e in endpoints}
    total = sum(raw.values())
    shares = {name: max(floor, value / total) for name, value in raw.items()}
    total = sum(shares.values())
    return {name: max(1, round(WEIGHT_SUM * share / total)) for name, share in shares.items()}
