"""The nodes of the mesh: who they are, whose lease is alive, what each should do. No sockets; time is an argument."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.errors import InvalidNode, LeaseExpired, NodeNameTaken, NodeNotFound, RegistryFull
from mesh.control.load import follow_service
from mesh.control.model_routes import read_serves
from mesh.endpoint import Endpoint, Health, Tier
from services.host import Address

LEASE_S = 5.0
"""A node that has said nothing for so long is lost."""

REPORT_S = 0.2
"""How often a node speaks."""

SILENT_S = 0.6
"""A punctual node that has said nothing for so long gets nothing until it speaks again."""

SILENT_GAPS = 3.0
"""One on a starved machine is given this many of its own gaps, so that a whole busy box does not fall silent."""

_GAP_START_S = 0.4  # a node that has just started is busy
_GAP_KEPT = 0.97  # a gap is forgotten over some thirty reports, six seconds

FORGET_S = 3600.0
_REQUEST_ID_BYTES_MAX = 128
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TIERS = {pb.TIER_EDGE: Tier.EDGE, pb.TIER_CLOUD: Tier.CLOUD}


@dataclass(eq=False, slots=True)
class Member:
    """One node of the mesh.

    Attributes:
        node: as it described itself, with its models as they are now.
        tier, address: read from it.
        request_id: of the process that registered it; empty for one of the static list.
        lease_id: names the lease; empty for a static one, which needs none.
        registered_s: when; registered_time the same on the calendar, seconds since 1970.
        heard_s: when it spoke last.
        gap_s: longest time between two words of late.
        state: SERVING, DRAINING or LOST.
        report: its last load report; None before the first, and while a node without a lease is not heard.
        service_s: how long a request takes on it, as its reports say; None before it has answered one.
        orders: what it still has to be told, oldest first.
        drained: somebody asked for it to finish; drain_order: the order it gets for it, once gateways look elsewhere.
        discovered: somebody else watches over it, such as Kubernetes, and it has not registered.
        has_told: whether it is known which models it has.
        serves: what it answers for, as routes ask for it.
    """

    node: Any
    tier: Tier
    address: Address
    request_id: str
    lease_id: str
    registered_s: float
    registered_time: float
    heard_s: float
    gap_s: float = _GAP_START_S
    state: pb.NodeState.ValueType = pb.NODE_STATE_SERVING
    report: Any | None = None
    service_s: float | None = None
    orders: list[Any] = field(default_factory=list)
    drained: bool = False
    drain_order: Any | None = None
    discovered: bool = False
    has_told: bool = False
    serves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reads what it answers for."""
        self.serves = read_serves(self.node.models)

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.node.name)

    @property
    def silent_after_s(self) -> float:
        """How long it may say nothing before it counts as silent."""
        return min(LEASE_S, max(SILENT_S, SILENT_GAPS * self.gap_s))

    def hear(self, now_s: float) -> None:
        """Notes that it spoke."""
        self.gap_s = max(self.gap_s * _GAP_KEPT, now_s - self.heard_s)
        self.heard_s = now_s

    def take_report(self, report: Any, service_s: float | None) -> None:
        """Takes what the node says about its load, and how long a request takes on it by that."""
        self.report = report
        self.service_s = follow_service(self.service_s, service_s)

    def health(self, now_s: float) -> Health:
        """Returns what gateways should do with it."""
        if self.state == pb.NODE_STATE_DRAINING:
            return Health.DRAINING
        silent = self.lease_id and now_s - self.heard_s > self.silent_after_s
        return Health.SILENT if silent or self.state == pb.NODE_STATE_LOST else Health.SERVING

    def endpoint(self, now_s: float) -> Endpoint:
        """Returns the node as a gateway should see it."""
        return Endpoint(self.name, self.tier, self.address, self.health(now_s), self.serves)

    def __repr__(self) -> str:
        """Returns name, tier and address."""
        return f"<Member {self.name} {self.tier} {self.address}>"


class Registry:
    """Every known node by name.

    Attributes:
        models_revision: another number after each change of which models there are.

    Args:
        nodes_max: most nodes that are kept.
        on_change: told after each change of what gateways should know.
        new_lease: makes lease names nobody can guess.
    """

    def __init__(
        self,
        nodes_max: int,
        on_change: Callable[[], None],
        new_lease: Callable[[], str] = lambda: secrets.token_urlsafe(12),
    ) -> None:
        self._nodes_max, self._on_change, self._new_lease = nodes_max, on_change, new_lease
        self._members: dict[str, Member] = {}
        self._by_lease: dict[str, Member] = {}
        self._discovered: dict[str, tuple[Endpoint, float]] = {}
        self.models_revision = 0

    def register(self, node: Any, request_id: str, now_s: float, time_s: float) -> Member:
        """Makes a node known; with the `request_id` of a live lease it changes nothing.

        Raises:
            InvalidNode: a name, tier, address or id that cannot be.
            NodeNameTaken: another process holds that name.
            RegistryFull: there is no room.
        """
        tier, address = _check(node, request_id)
        before = self._members.get(node.name)
        if before is not None and before.state != pb.NODE_STATE_LOST and not before.discovered:
            if before.request_id == request_id and request_id:
                before.heard_s = now_s
                return before
            left_s = before.heard_s + LEASE_S - now_s
            if not before.lease_id or left_s > 0:
                raise NodeNameTaken(node.name, str(before.address), max(0.0, left_s) if before.lease_id else 60.0)
        if before is None and len(self._members) >= self._nodes_max:
            raise RegistryFull(self._nodes_max)
        if before is not None:
            self._by_lease.pop(before.lease_id, None)
        kept = pb.Node()
        kept.CopyFrom(node)
        member = Member(kept, tier, address, request_id, self._new_lease(), now_s, time_s, now_s, has_told=True)
        if before is not None and before.drained and request_id and before.request_id == request_id:
            # The same process, which was silent meanwhile: the drain goes on, and its order may never have come.
            member.state, member.drained, member.drain_order = pb.NODE_STATE_DRAINING, True, before.drain_order
        self._members[member.name] = member
        self._by_lease[member.lease_id] = member
        self._tell_models()
        return member

    def add_static(self, endpoint: Endpoint, now_s: float, time_s: float) -> Member:
        """Makes a node known that does not register: it has no lease, and only the gateways' health checks watch it."""
        node = pb.Node(name=endpoint.name, tier=_wire_tier(endpoint.tier), grpc_address=str(endpoint.address))
        tier, address = _check(node, "static")
        member = Member(node, tier, address, "", "", now_s, time_s, now_s)
        self._members[member.name] = member
        self._tell_models()
        return member

    def set_discovered(self, found: Sequence[Endpoint], now_s: float, time_s: float) -> int:
        """Takes the whole list of nodes that somebody else watches over, such as Kubernetes; returns how many fit.

        One that registers itself takes the place of its entry here until its lease ends: it says more. One of the
        static list stays as it is.
        """
        before = self._discovered
        self._discovered = {e.name: (e, before.get(e.name, (e, time_s))[1]) for e in found}
        for name in before.keys() - self._discovered.keys():
            if name in self._members and self._members[name].discovered:
                del self._members[name]
        fits = sum(self._place(endpoint, now_s, since) for endpoint, since in self._discovered.values())
        self._tell_models()
        return fits

    def _place(self, endpoint: Endpoint, now_s: float, time_s: float) -> bool:
        """Makes a discovered node a member, unless a better source knows it; returns whether it is one."""
        before = self._members.get(endpoint.name)
        state = pb.NODE_STATE_DRAINING if endpoint.health is Health.DRAINING else pb.NODE_STATE_SERVING
        if before is None and len(self._members) >= self._nodes_max:
            return False
        if before is not None:
            if not before.discovered and before.state != pb.NODE_STATE_LOST:
                return True
            if before.discovered and (before.tier, before.address) == (endpoint.tier, endpoint.address):
                # A person may have drained it, which this does not undo.
                before.state = max(before.state, state)
                return True
            self._by_lease.pop(before.lease_id, None)
        node = pb.Node(name=endpoint.name, tier=_wire_tier(endpoint.tier), grpc_address=str(endpoint.address))
        tier, address = _check(node, "discovered")
        self._members[endpoint.name] = Member(
            node, tier, address, "", "", now_s, time_s, now_s, state=state, discovered=True
        )
        return True

    def find(self, lease_id: str) -> Member:
        """Returns the node of a lease.

        Raises:
            LeaseExpired: there is none of that name.
        """
        member = self._by_lease.get(lease_id)
        if member is None:
            raise LeaseExpired(lease_id)
        return member

    def renew(self, lease_id: str, now_s: float) -> Member:
        """Returns the node of a live lease, which lives on from now.

        Raises:
            LeaseExpired: it is not alive.
        """
        member = self.find(lease_id)
        if member.state == pb.NODE_STATE_LOST:
            raise LeaseExpired(lease_id)
        was_silent = member.health(now_s) is Health.SILENT
        member.hear(now_s)
        if was_silent:
            self._on_change()
        return member

    def set_models(self, member: Member, models: Any) -> None:
        """Takes the whole list of a node's models."""
        models = list(models)
        del member.node.models[:]
        member.node.models.extend(models)
        member.has_told = True
        member.serves = read_serves(member.node.models)
        self._tell_models()

    def _tell_models(self) -> None:
        self.models_revision += 1
        self._on_change()

    def drain(self, name: str) -> Member:
        """Returns a node that gets nothing new from now on.

        Raises:
            NodeNotFound: there is none of that name.
        """
        member = self._members.get(name)
        if member is None or member.state == pb.NODE_STATE_LOST:
            raise NodeNotFound(name)
        member.state = pb.NODE_STATE_DRAINING
        member.drained = True
        self._on_change()
        return member

    def order_drain(self, name: str, request_id: str, order: Any) -> None:
        """Has a process of a node that is drained told so, now and whenever it begins to listen again."""
        member = self._members.get(name)
        if member is not None and member.drained and member.request_id == request_id:
            member.drain_order = order
            member.orders.append(order)

    def deregister(self, lease_id: str) -> Member:
        """Forgets a node at once and returns it.

        Raises:
            LeaseExpired: the lease is not alive.
        """
        member = self.find(lease_id)
        del self._by_lease[lease_id]
        del self._members[member.name]
        self._tell_models()
        return member

    def expire(self, now_s: float) -> list[Member]:
        """Ends the leases that were not renewed and returns their nodes; forgets those lost long ago.

        A node that somebody else still sees is back without its lease.
        """
        lost = []
        for member in list(self._members.values()):
            if not member.lease_id:
                continue
            quiet_s = now_s - member.heard_s
            if member.state != pb.NODE_STATE_LOST and quiet_s > LEASE_S:
                member.state = pb.NODE_STATE_LOST
                lost.append(member)
            elif quiet_s > FORGET_S:
                self._by_lease.pop(member.lease_id, None)
                del self._members[member.name]
                self.models_revision += 1
        for name, (endpoint, since) in self._discovered.items():
            known = self._members.get(name)
            if known is None or known.state == pb.NODE_STATE_LOST:
                self._place(endpoint, now_s, since)
                self.models_revision += 1  # what it had told of its models is forgotten with its lease
        if lost:
            self._on_change()
        return lost

    def endpoints(self, now_s: float) -> list[Endpoint]:
        """Returns what gateways should know: every node but the lost ones.

        As long as gateways check health themselves, silence is only a hint: when most nodes fall silent at once, or
        the last one does, it is we who do not hear, and everybody stays.
        """
        found = [member.endpoint(now_s) for member in self]
        serving = sum(e.health is Health.SERVING for e in found)
        lost = {member.name for member in self if member.state == pb.NODE_STATE_LOST}
        if serving:
            found = [e for e in found if e.name not in lost]
        silent = sum(e.health is Health.SILENT for e in found)
        if silent > serving:
            return [replace(e, health=Health.SERVING) if e.health is Health.SILENT else e for e in found]
        return found

    def excuse(self, pause_s: float) -> None:
        """Counts a time in which we heard nothing, because we did not listen, for nobody."""
        for member in self._members.values():
            member.heard_s += pause_s

    def get(self, name: str) -> Member:
        """Returns one node.

        Raises:
            NodeNotFound: there is none of that name.
        """
        if name not in self._members:
            raise NodeNotFound(name)
        return self._members[name]

    def __iter__(self) -> Iterator[Member]:
        """Yields the nodes by name."""
        members = list(self._members.values())  # a copy, for other threads
        return iter(sorted(members, key=lambda member: member.name))

    def __len__(self) -> int:
        """Returns the number of known nodes, lost ones included."""
        return len(self._members)

    def __repr__(self) -> str:
        """Returns the number of nodes."""
        return f"<Registry nodes={len(self)}>"


def _wire_tier(tier: Tier) -> Any:
    return {value: key for key, value in _TIERS.items()}[tier]


def _check(node: Any, request_id: str) -> tuple[Tier, Address]:
    if not _NAME.fullmatch(node.name):
        raise InvalidNode(
            f"node name {node.name!r} is not one; expected 1 to 63 lower-case letters, digits and `-`, such as `edge-1`"
        )
    if node.tier not in _TIERS:
        raise InvalidNode(f"node {node.name} has no tier; expected TIER_EDGE or TIER_CLOUD")
    if not 0 < len(request_id.encode()) <= _REQUEST_ID_BYTES_MAX:
        raise InvalidNode(
            f"request_id of node {node.name} has {len(request_id.encode())} bytes; "
            f"expected 1 to {_REQUEST_ID_BYTES_MAX}, one id per start of the process"
        )
    try:
        address = Address.parse(node.grpc_address)
    except ValueError as error:
        raise InvalidNode(f"grpc_address of node {node.name}: {error}") from error
    if address.port == 0:
        raise InvalidNode(f"grpc_address of node {node.name} is {address}; port 0 cannot be called")
    return _TIERS[node.tier], address
