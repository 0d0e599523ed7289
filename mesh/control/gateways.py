"""The gateways that are connected: who they are, what each should have, what it said about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.control.snapshot import Snapshot
from services.host import Address

GATEWAYS_MAX = 1000
METADATA_KEY = "starling"
_REFUSALS_MAX = 8


@dataclass(frozen=True, slots=True)
class GatewayIdentity:
    """Who a gateway says it is, in the metadata of its bootstrap.

    Attributes:
        name: unique in the mesh.
        viewpoint: gateways of one viewpoint stand at one place and see the same distances.
        listen: where it should listen.
    """

    name: str
    viewpoint: str
    listen: Address

    @classmethod
    def read(cls, node: Any) -> GatewayIdentity:
        """Returns the identity in an `envoy.config.core.v3.Node`.

        Raises:
            ValueError: a part is missing; says which.
        """
        if not node.id:
            raise ValueError("the gateway has no node id; give its bootstrap one")
        ours = node.metadata.fields[METADATA_KEY].struct_value.fields if METADATA_KEY in node.metadata.fields else {}
        if "listen" not in ours:
            raise ValueError(
                f"gateway {node.id} does not say where it listens; "
                f'its node metadata should have {{"{METADATA_KEY}": {{"listen": "HOST:PORT"}}}}'
            )
        viewpoint = ours["viewpoint"].string_value if "viewpoint" in ours else ""
        return cls(node.id, viewpoint or node.id, Address.parse(ours["listen"].string_value))


@dataclass(eq=False, slots=True)
class Gateway:
    """One connected gateway.

    Attributes:
        identity: who it is.
        snapshot: what it should have; None until the first one is built.
        changed: set when the snapshot was replaced.
        unanswered: what was sent last and has no verdict yet, by resource type.
        settled: set while the gateway has said something about everything in the snapshot.
        refusals: what it refused and keeps in its old form, newest last: type and reason by resource type.
        pushed, accepted: number of responses sent and taken.
        last_ack_s: time from the last response to its verdict; None before the first.
    """

    identity: GatewayIdentity
    snapshot: Snapshot | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    unanswered: dict[str, str] = field(default_factory=dict)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    refusals: dict[str, str] = field(default_factory=dict)
    pushed: int = 0
    accepted: int = 0
    last_ack_s: float | None = None

    def put(self, snapshot: Snapshot) -> None:
        """Makes the stream of this gateway send what changed."""
        self.snapshot = snapshot
        self.settled.clear()
        self.changed.set()

    def __repr__(self) -> str:
        """Returns the name, what was pushed and what was refused."""
        refused = f" refuses={sorted(self.refusals)}" if self.refusals else ""
        return f"<Gateway {self.identity.name} pushed={self.pushed} accepted={self.accepted}{refused}>"


class GatewayTable:
    """Every connected gateway by name; a reconnecting one takes the place of its old stream.

    Args:
        on_join: told of each new connection, so that its first snapshot can be built.
    """

    def __init__(self, on_join: Callable[[Gateway], None]) -> None:
        self._on_join = on_join
        self._gateways: dict[str, Gateway] = {}

    def join(self, identity: GatewayIdentity) -> Gateway:
        """Returns the entry of a gateway that has just connected.

        Raises:
            ValueError: there are too many already.
        """
        if identity.name not in self._gateways and len(self._gateways) >= GATEWAYS_MAX:
            raise ValueError(
                f"{GATEWAYS_MAX} gateways are connected, which is the most; another control plane has room"
            )
        gateway = Gateway(identity)
        self._gateways[identity.name] = gateway
        self._on_join(gateway)
        return gateway

    def leave(self, gateway: Gateway) -> None:
        """Forgets a gateway whose stream ended, unless a newer stream has taken its place."""
        if self._gateways.get(gateway.identity.name) is gateway:
            del self._gateways[gateway.identity.name]

    def viewpoint_of(self, name: str) -> str | None:
        """Returns the viewpoint of a connected gateway; None for an unknown one."""
        gateway = self._gateways.get(name)
        return None if gateway is None else gateway.identity.viewpoint

    def __iter__(self) -> Iterator[Gateway]:
        """Yields the gateways by name."""
        gateways = list(self._gateways.values())  # a copy, for other threads
        return iter(sorted(gateways, key=lambda gateway: gateway.identity.name))

    def __len__(self) -> int:
        """Returns the number of connected gateways."""
        return len(self._gateways)

    def __repr__(self) -> str:
        """Returns the names."""
        return f"<GatewayTable {' '.join(sorted(self._gateways)) or 'empty'}>"
