"""One node as a gateway reaches it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from services.host import Address


class Tier(StrEnum):
    """Where a node stands, seen from the agents."""

    EDGE = "edge"
    CLOUD = "cloud"


class Health(StrEnum):
    """What a gateway should do with a node."""

    SERVING = "serving"
    DRAINING = "draining"  # finishes what it has, gets nothing new
    SILENT = "silent"  # has said nothing for too long; gets nothing until it speaks again


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One node as a gateway reaches it.

    Attributes:
        name: the node's name, unique in the mesh.
        tier: where it stands.
        address: where its gRPC server, or the delay before it, listens.
        health: whether it gets requests.
        serves: the models and versions that it answers for, as routes ask for them.
    """

    name: str
    tier: Tier
    address: Address
    health: Health = Health.SERVING
    serves: tuple[str, ...] = ()
