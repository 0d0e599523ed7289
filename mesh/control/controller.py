"""The loop: nodes and samples in, a snapshot for each gateway out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from mesh.control.estimate import Sample
from mesh.control.gateways import Gateway, GatewayTable
from mesh.control.model_routes import Found, RoutePlan, build_routes, find_models
from mesh.control.registry import Member, Registry
from mesh.control.resources import build_frame, build_snapshot
from mesh.control.snapshot import Snapshot
from mesh.control.viewpoint import Seat, Viewpoint
from mesh.control.weights import PRIOR_DISTANCE_S, PRIOR_SERVICE_S, Rules
from mesh.endpoint import Endpoint, Health
from mesh.gateway import Balancer, ModelRoute
from mesh.gateway.security import SecurityPlan
from services.host import Address

TICK_S = 0.1
LATE_S = 0.5
"""A tick later than this means that we were stopped or starved: nobody is to blame for not having been heard."""

SETTLE_S = 3.0
"""After our start, gateways that have endpoints keep them for so long: by then every node has registered again, and
its latency has been seen."""

SETTLED_S = 5.0
"""How long a node that has loaded a model waits for gateways to know it; one that is slower hears of it later."""

VIEWPOINT_KEPT_S = 600.0
_log = logging.getLogger(__name__)


class Controller:
    """Ties the registry, the viewpoints and the gateways together.

    Attributes:
        registry, gateways: what it ties.
        plans: what operators want of the calls for models, by model; replaced by `set_plans`.
        viewpoints: by name; one without gateways is kept for a while.
        late_ticks: how often it came so late that it held its judgement.
        alarm_sources: others that may have something a person should look at, asked with the time.

    Args:
        nodes_max: most nodes.
        balancer: how gateways pick a node.
        rules: what decides about weights.
        equal: give every node the same weight, for comparison.
        security: who may call gateways; anybody without it.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        nodes_max: int,
        balancer: Balancer = Balancer.LEAST_REQUEST,
        rules: Rules | None = None,
        *,
        equal: bool = False,
        security: SecurityPlan | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = Registry(nodes_max, self._wake)
        self.gateways = GatewayTable(self._welcome)
        self.viewpoints: dict[str, Viewpoint] = {}
        self.plans: dict[str, RoutePlan] = {}
        self.late_ticks = 0
        self.alarm_sources: list[Callable[[float], Iterable[str]]] = []
        self._security = security
        self._balancer, self._rules, self._equal, self._clock = balancer, rules or Rules(), equal, clock
        self._distances: dict[str, float] = {}
        self._names: dict[Address, str] = {}
        self._frames: dict[Address, Snapshot] = {}
        self._healths: dict[str, Health] = {}
        self._told: list[Endpoint] = []
        self._used_s: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._ticked_s = self._started_s = clock()
        self._settled = False
        self._routed: tuple[int, frozenset[str]] | None = None
        self._routes: tuple[ModelRoute, ...] = ()
        self._are_all, self._are_ours = False, True

    def take(self, gateway: str, address: Address, sample: Sample) -> None:
        """Takes one try at a node, from the access log."""
        viewpoint, node = self.gateways.viewpoint_of(gateway), self._names.get(address)
        if viewpoint is not None and node is not None:
            self._viewpoint(viewpoint).take(node, sample)

    def set_distance(self, node: str, seconds: float) -> None:
        """Takes a measured round trip to a node; where a new viewpoint starts from."""
        self._distances[node] = seconds

    def set_security(self, plan: SecurityPlan) -> None:
        """Gives every gateway another plan; calls under way go on."""
        self._security = plan
        self._frames.clear()
        for viewpoint in self.viewpoints.values():
            self._publish(viewpoint, self._told)

    def set_plans(self, plans: Mapping[str, RoutePlan]) -> None:
        """Takes what operators want of the calls for models, by model; replaces what they wanted before."""
        self.plans = dict(plans)
        self._routed = None
        self._wake()

    def is_new(self) -> bool:
        """Returns whether we started so lately that gateways know the nodes better than we do."""
        return self._clock() - self._started_s < SETTLE_S

    async def run(self) -> None:
        """Looks again and again, at once after a change, until cancelled."""
        while True:
            self.tick(self._clock())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), TICK_S)

    def tick(self, now_s: float) -> None:
        """Looks at everything once and gives gateways what has changed for them."""
        self._changed.clear()
        pause_s = now_s - self._ticked_s - TICK_S
        self._ticked_s = now_s
        if pause_s > LATE_S:
            self.late_ticks += 1
            self.registry.excuse(pause_s)
        for member in self.registry.expire(now_s):
            _log.error("node %s is lost: nothing heard for the length of its lease", member.name)
        seats = self._seats(now_s)
        self._tell_changes(seats)
        endpoints = [seat.endpoint for seat in seats]
        for gateway in self.gateways:
            self._used_s[gateway.identity.viewpoint] = now_s
        for name in [name for name, used_s in self._used_s.items() if now_s - used_s > VIEWPOINT_KEPT_S]:
            self.viewpoints.pop(name, None)
            del self._used_s[name]
        moved = self._follow_models(endpoints) or endpoints != self._told
        self._told = endpoints
        for viewpoint in self.viewpoints.values():
            if viewpoint.look(seats, now_s) or moved:
                self._publish(viewpoint, endpoints)

    async def settle(self) -> None:
        """Gives gateways what has changed, and waits until they have it, at most `SETTLED_S`."""
        self.tick(self._clock())
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S):
                for gateway in self.gateways:
                    await gateway.settled.wait()

    def find_models(self) -> dict[str, Found]:
        """Returns what nodes have of each model."""
        return self._find_models(self.registry.endpoints(self._clock()))

    def _find_models(self, endpoints: Iterable[Endpoint]) -> dict[str, Found]:
        serving = _find_serving(endpoints)
        return find_models((member.node.models, member.name in serving) for member in self.registry)

    def _follow_models(self, endpoints: Sequence[Endpoint]) -> bool:
        """Makes routes of the models of now; returns whether gateways have to be told."""
        settles = not self._settled and not self.is_new()
        state = (self.registry.models_revision, _find_serving(endpoints))
        if not settles and self._routed == state:
            return False
        self._settled |= settles
        self._routed = state
        routes = build_routes(self._find_models(endpoints), self.plans)
        # Nodes that have not registered again, or do not tell, may have any model.
        are_all = self._settled and len(self.registry) > 0 and all(member.has_told for member in self.registry)
        are_ours = all(member.lease_id for member in self.registry)
        if not settles and (routes, are_all, are_ours) == (self._routes, self._are_all, self._are_ours):
            return False
        self._routes, self._are_all, self._are_ours = routes, are_all, are_ours
        self._frames.clear()
        return True

    def _tell_changes(self, seats: Sequence[Seat]) -> None:
        """Writes to the log who fell silent and who speaks again."""
        healths = {seat.endpoint.name: seat.endpoint.health for seat in seats}
        for name, health in healths.items():
            before = self._healths.get(name, Health.SERVING)
            if health is not before:
                _log.warning("node %s was %s and is %s", name, before, health)
        self._healths = healths

    def _seats(self, now_s: float) -> list[Seat]:
        found = self.registry.endpoints(now_s)
        self._names = {endpoint.address: endpoint.name for endpoint in found}
        members = {member.name: member for member in self.registry}
        return [self._seat(endpoint, members[endpoint.name], now_s) for endpoint in found]

    def _seat(self, endpoint: Endpoint, member: Member, now_s: float) -> Seat:
        distance_s = self._distances.get(endpoint.name, PRIOR_DISTANCE_S[endpoint.tier])
        service_s = PRIOR_SERVICE_S if member.service_s is None else member.service_s
        return Seat(endpoint, now_s - member.registered_s, distance_s, max(service_s, 1e-6))

    def _publish(self, viewpoint: Viewpoint, endpoints: Sequence[Endpoint]) -> None:
        for gateway in self.gateways:
            if gateway.identity.viewpoint == viewpoint.name:
                self._put(gateway, viewpoint, endpoints)

    def _put(self, gateway: Gateway, viewpoint: Viewpoint, endpoints: Sequence[Endpoint]) -> None:
        listen = gateway.identity.listen
        if listen not in self._frames:
            self._frames[listen] = build_frame(
                listen,
                self._balancer,
                self._security,
                self._routes,
                are_all=self._are_all,
                are_asked=self._are_ours,
            )
        gateway.put(build_snapshot(self._frames[listen], endpoints, viewpoint.plan.weights))

    def _welcome(self, gateway: Gateway) -> None:
        """Gives a gateway that has just connected its first snapshot."""
        now_s = self._clock()
        viewpoint = self._viewpoint(gateway.identity.viewpoint)
        seats = self._seats(now_s)
        if self._follow_models([seat.endpoint for seat in seats]):
            for other in self.viewpoints.values():
                self._publish(other, self._told)
        viewpoint.look(seats, now_s)
        self._publish(viewpoint, [seat.endpoint for seat in seats])

    def _viewpoint(self, name: str) -> Viewpoint:
        if name not in self.viewpoints:
            self.viewpoints[name] = Viewpoint(name, self._rules, equal=self._equal)
        self._used_s[name] = self._clock()
        return self.viewpoints[name]

    def _wake(self) -> None:
        self._changed.set()

    def __repr__(self) -> str:
        """Returns nodes, gateways and viewpoints."""
        return (
            f"<Controller nodes={len(self.registry)} gateways={len(self.gateways)} viewpoints={len(self.viewpoints)}>"
        )


def _find_serving(endpoints: Iterable[Endpoint]) -> frozenset[str]:
    return frozenset(endpoint.name for endpoint in endpoints if endpoint.health is Health.SERVING)
