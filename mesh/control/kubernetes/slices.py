"""EndpointSlices as the nodes they name. Pure: plain JSON objects in, endpoints out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mesh.endpoint import Endpoint, Health, Tier
from services.host import Address

Slice = Mapping[str, Any]
"""One `discovery.k8s.io/v1 EndpointSlice` as the API server sends it; lists in it may be absent or null."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME_MAX = 63  # of a node
_HASH = 8
# Gateways call addresses; a slice of host names (FQDN) would need a resolver of its own.
_KINDS = ("IPv4", "IPv6")


@dataclass(frozen=True, slots=True)
class Service:
    """A service whose endpoints are nodes.

    Attributes:
        namespace: where it is; the control plane's own when empty.
        name: its name.
        tier: where its nodes stand, seen from the agents.
    """

    namespace: str
    name: str
    tier: Tier

    def __str__(self) -> str:
        """Returns namespace and name."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def parse_service(text: str) -> Service:
    """Returns the service that `[NAMESPACE/]NAME[=TIER]` spells; in the cloud unless it says otherwise.

    Raises:
        ValueError: it spells none.

    >>> str(parse_service("robots/nodes=edge")), parse_service("nodes").tier.value
    ('robots/nodes', 'cloud')
    """
    path, equals, tier = text.partition("=")
    namespace, slash, name = path.rpartition("/")
    labels = (namespace, name) if slash else (name,)
    if not all(_LABEL.fullmatch(label) for label in labels) or (equals and tier not in frozenset(Tier)):
        raise ValueError(f"{text!r} is no service; expected [NAMESPACE/]NAME[=edge|cloud]")
    return Service(namespace, name, Tier(tier) if equals else Tier.CLOUD)


@dataclass(frozen=True, slots=True, order=True)
class _Candidate:
    """One endpoint of one slice; the least one of a name is believed."""

    draining: bool  # a pod and its successor may both be there for a while
    kind: int  # a pod of two families is in two slices
    slice_name: str
    address: Address


def build_endpoints(slices: Iterable[Slice], tier: Tier, port: str) -> list[Endpoint]:
    """Returns the nodes that the slices of a service name, by name.

    An endpoint that is ready gets requests; one that is serving and terminating finishes what it has; all others do not
    exist. The nodes are named after their pods, or by their addresses where there are none.

    Args:
        slices: of one service, in any order; the same endpoint may be in several.
        tier: of every node.
        port: name of the port to call; the only port of a slice that has just one.
    """
    best: dict[str, _Candidate] = {}
    for one in slices:
        for name, candidate in _read(one, port):
            best[name] = min(best.get(name, candidate), candidate)
    return [
        Endpoint(name, tier, found.address, Health.DRAINING if found.draining else Health.SERVING)
        for name, found in sorted(best.items())
    ]


def _read(one: Slice, port: str) -> Iterator[tuple[str, _Candidate]]:
    number, kind = _read_port(one, port), one.get("addressType")
    if number is None or kind not in _KINDS:
        return
    slice_name = (one.get("metadata") or {}).get("name", "")
    for endpoint in one.get("endpoints") or ():
        addresses = endpoint.get("addresses") or ()
        draining = _read_draining(endpoint.get("conditions") or {})
        if addresses and draining is not None:
            # All of its addresses are the same endpoint; which one to use is left to us, and the first is always there.
            address = Address(addresses[0], number)
            yield _read_name(endpoint, address), _Candidate(draining, _KINDS.index(kind), slice_name, address)


def _read_draining(conditions: Mapping[str, Any]) -> bool | None:
    """Returns whether an endpoint drains; None when it answers nothing. Absent and null mean what the API says."""
    ready, serving = conditions.get("ready"), conditions.get("serving")
    if ready is None or ready:
        return False
    return True if serving and conditions.get("terminating") else None


def _read_port(one: Slice, name: str) -> int | None:
    ports = [port for port in one.get("ports") or () if port.get("port") and port.get("protocol") in (None, "TCP")]
    named = [port for port in ports if port.get("name") == name]
    chosen = named or (ports if len(ports) == 1 else [])
    return int(chosen[0]["port"]) if chosen else None


def _read_name(endpoint: Mapping[str, Any], address: Address) -> str:
    target = endpoint.get("targetRef") or {}
    name = target.get("name") if target.get("kind") == "Pod" else endpoint.get("hostname")
    return make_name(str(name or f"at-{address.host}-{address.port}"))


def make_name(text: str) -> str:
    """Returns a text as the name of a node: unchanged if it can be one, else close to it and as unique.

    >>> make_name("node-0"), make_name("at-10.0.0.7-8001")
    ('node-0', 'at-10-0-0-7-8001-64e49117')
    """
    if _LABEL.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH]
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return f"{plain[: _NAME_MAX - _HASH - 1].rstrip('-') or 'node'}-{digest}"
