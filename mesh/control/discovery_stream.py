"""What one gateway's discovery stream has, wants and refused: both protocols as state without sockets.

A stream is told requests with `receive` and asked with `respond` what to send for the newest snapshot. Sending is
somebody else's work, so every order of events can be tried in a test.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from envoy.service.discovery.v3 import discovery_pb2

from mesh.control.messages import CLUSTER, ENDPOINTS, PUSH_ORDER, short_name
from mesh.control.snapshot import Snapshot

_WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gateway said about a response.

    Attributes:
        nonce: of that response.
        type_url: of its resources.
        refusal: why the gateway keeps its old resources; empty when it took the new ones.
    """

    nonce: str
    type_url: str
    refusal: str


class DiscoveryStream(Protocol):
    """One stream of either protocol."""

    def receive(self, request: Any) -> Verdict | None:
        """Takes a request; returns the verdict in it, None when it has none or an outdated one."""
        ...

    def respond(self, snapshot: Snapshot, *, hold: bool = False) -> Iterator[Any]:
        """Yields what the gateway lacks, in the order of sending.

        Args:
            snapshot: what it should have.
            hold: what the gateway brought along from before this stream stays.
        """
        ...


@dataclass(slots=True)
class _DeltaType:
    """What a delta stream knows about one type; `known` holds None for a name told to be absent."""

    wildcard: bool
    names: set[str] = field(default_factory=set)
    known: dict[str, str | None] = field(default_factory=dict)
    brought: bool = False

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


class DeltaStream:
    """The incremental protocol: only what changed travels, one resource at a time."""

    def __init__(self) -> None:
        self._types: dict[str, _DeltaType] = {}
        self._nonces = itertools.count(1)

    def receive(self, request: Any) -> Verdict | None:
        """Takes a DeltaDiscoveryRequest; see `DiscoveryStream`."""
        url, subscribed = request.type_url, set(request.resource_names_subscribe)
        state = self._types.get(url)
        if state is None:
            known: dict[str, str | None] = dict(request.initial_resource_versions)
            state = self._types[url] = _DeltaType(not subscribed, known=known, brought=bool(known))
        elif not request.response_nonce:
            # Whoever asks again has lost what it had, for instance by removing and adding a cluster.
            for name in subscribed:
                state.known.pop(name, None)
        state.wildcard |= _WILDCARD in subscribed
        state.names |= subscribed - {_WILDCARD}
        for name in request.resource_names_unsubscribe:
            state.wildcard &= name != _WILDCARD
            state.names.discard(name)
            state.known.pop(name, None)
        if not request.response_nonce:
            return None
        return Verdict(request.response_nonce, url, _read_refusal(request))

    def respond(self, snapshot: Snapshot, *, hold: bool = False) -> Iterator[Any]:
        """Yields DeltaDiscoveryResponses; see `DiscoveryStream`."""
        for url in PUSH_ORDER:
            state = self._types.get(url)
            if state is None or (hold and state.brought):
                continue
            found = snapshot.of_type(url)
            changed = {n: r for n, r in found.items() if state.wants(n) and state.known.get(n) != r.version}
            gone = [n for n, version in state.known.items() if version is not None and n not in found]
            # A gateway that waits for what does not exist would wait for its time-out of 15 s.
            absent = [n for n in state.names if n not in found and n not in state.known]
            if not changed and not gone and not absent:
                continue
            state.known.update({name: resource.version for name, resource in changed.items()})
            state.known.update(dict.fromkeys((*gone, *absent)))
            if url == CLUSTER and ENDPOINTS in self._types:
                # A changed cluster warms up until its endpoints are sent again, or for 15 s.
                endpoints = self._types[ENDPOINTS]
                for name in changed:
                    endpoints.known.pop(name, None)
            yield discovery_pb2.DeltaDiscoveryResponse(
                system_version_info=snapshot.version(url),
                nonce=str(next(self._nonces)),
                type_url=url,
                resources=[
                    discovery_pb2.Resource(name=name, version=resource.version, resource=resource.body)
                    for name, resource in changed.items()
                ],
                removed_resources=sorted({*gone, *absent}),
            )

    def __repr__(self) -> str:
        """Returns the number of resources that the gateway has, by type."""
        counts = (f"{short_name(url)}={len(state.known)}" for url, state in self._types.items())
        return f"<DeltaStream {' '.join(counts) or 'new'}>"


@dataclass(slots=True)
class _WorldType:
    """What a state-of-the-world stream knows about one type."""

    names: set[str] = field(default_factory=set)
    sent: str = ""
    sent_names: frozenset[str] = frozenset()
    brought: bool = False
    nonce: str = ""


class WorldStream:
    """The state-of-the-world protocol: all resources of a type travel when one of them changed."""

    def __init__(self) -> None:
        self._types: dict[str, _WorldType] = {}
        self._nonces = itertools.count(1)

    def receive(self, request: Any) -> Verdict | None:
        """Takes a DiscoveryRequest; see `DiscoveryStream`."""
        url = request.type_url
        state = self._types.get(url)
        if state is None:
            # The version tells what the gateway has from before; it need not be sent again.
            state = self._types[url] = _WorldType(sent=request.version_info, brought=bool(request.version_info))
            state.names = set(request.resource_names) - {_WILDCARD}
            state.sent_names = frozenset(state.names)
            return None
        if request.response_nonce != state.nonce:
            return None  # about an older response; the newest is under way
        state.names = set(request.resource_names) - {_WILDCARD}
        return Verdict(state.nonce, url, _read_refusal(request))

    def respond(self, snapshot: Snapshot, *, hold: bool = False) -> Iterator[Any]:
        """Yields DiscoveryResponses; see `DiscoveryStream`."""
        clusters_sent = False
        for url in PUSH_ORDER:
            state = self._types.get(url)
            if state is None or (hold and state.brought):
                continue
            version = snapshot.version(url)
            asked_more = not state.names <= state.sent_names
            warms = url == ENDPOINTS and clusters_sent
            if state.sent == version and not asked_more and not warms:
                continue
            found = {n: r for n, r in snapshot.of_type(url).items() if not state.names or n in state.names}
            if url != CLUSTER and not found:
                continue  # an empty list would be read as a list, not as a refusal
            state.sent, state.sent_names = version, frozenset(state.names)
            state.nonce = str(next(self._nonces))
            clusters_sent |= url == CLUSTER
            yield discovery_pb2.DiscoveryResponse(
                version_info=version,
                nonce=state.nonce,
                type_url=url,
                resources=[resource.body for resource in found.values()],
            )

    def __repr__(self) -> str:
        """Returns the version that was sent last, by type."""
        versions = (f"{short_name(url)}={state.sent[:6]}" for url, state in self._types.items())
        return f"<WorldStream {' '.join(versions) or 'new'}>"


def _read_refusal(request: Any) -> str:
    return str(request.error_detail.message) if request.HasField("error_detail") else ""
