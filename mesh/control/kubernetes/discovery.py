"""The nodes of several services in the registry."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mesh.control.errors import NotInKubernetes
from mesh.control.kubernetes.api import KubernetesApi
from mesh.control.kubernetes.follower import Follower, Pace
from mesh.control.kubernetes.slices import Service, build_endpoints
from mesh.control.registry import Registry
from mesh.endpoint import Endpoint
from services.host import Address

ALARM_S = 10.0
"""An API server that restarts is back by then."""


class KubernetesDiscovery:
    """Keeps the registry's nodes what the ready endpoints of services are.

    Attributes:
        followers: one for each service.

    Args:
        api: where to ask.
        services: whose endpoints are nodes.
        port: name of the port that nodes answer gRPC at.
        registry: takes them.
        clock, calendar: seconds, monotonic and since 1970.
        pace: of the followers.
        rng: spreads what several control planes do.
    """

    def __init__(
        self,
        api: KubernetesApi,
        services: Sequence[Service],
        port: str,
        registry: Registry,
        *,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
        pace: Pace | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._port, self._registry, self._clock, self._calendar = port, registry, clock, calendar
        self._left_out = 0
        self.followers = tuple(
            Follower(api, service, self._apply, pace=pace, rng=rng, clock=clock) for service in services
        )

    async def run(self) -> None:
        """Follows all of them until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for follower in self.followers:
                tasks.create_task(follower.run())

    def alarms(self, now_s: float) -> Iterator[str]:
        """Yields the services that could not be followed for a while, and whether nodes are left out."""
        if self._left_out:
            yield f"{self._left_out} endpoints of services are no nodes, for want of room; raise --nodes-max"
        for follower in self.followers:
            if follower.problem and now_s - follower.problem_s > ALARM_S:
                kept = "its nodes stay as they were" if follower.synced else "it has given no nodes yet"
                since_s = now_s - follower.problem_s
                yield f"service {follower.service} cannot be followed for {since_s:.0f} s, {kept}: {follower.problem}"

    def _apply(self) -> None:
        found: dict[str, Endpoint] = {}
        for follower in self.followers:
            for endpoint in build_endpoints(follower.slices.values(), follower.service.tier, self._port):
                found.setdefault(endpoint.name, endpoint)  # a pod of two services is one node, of the first
        fits = self._registry.set_discovered(list(found.values()), self._clock(), self._calendar())
        self._left_out = len(found) - fits

    def __repr__(self) -> str:
        """Returns the services."""
        return f"<KubernetesDiscovery {' '.join(str(follower.service) for follower in self.followers)}>"


def find_api(url: str, environ: Mapping[str, str]) -> str:
    """Returns the URL of the API server: the one given, or that of the cluster we run in.

    Raises:
        NotInKubernetes: neither is known.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not url and not host:
        raise NotInKubernetes
    return url or f"https://{Address(host, int(port))}"


def resolve_namespaces(services: Sequence[Service], account: Path) -> list[Service]:
    """Returns services with a namespace each: those without are in that of our pod, or in `default`."""
    own = account / "namespace"
    namespace = own.read_text("ascii").strip() if own.exists() else "default"
    return [replace(service, namespace=service.namespace or namespace) for service in services]
