"""ControlService: shows what the control plane sees and what it made of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from starling.mesh.v1 import control_service_pb2 as pb
from starling.mesh.v1 import node_service_pb2 as nodes_pb

from mesh.control.controller import Controller
from mesh.control.errors import RouteNotFound
from mesh.control.model_routes import Label, RoutePlan, find_route_alarms
from mesh.control.node_service import describe
from mesh.control.route_file import write_routes
from mesh.control.times import duration, timestamp
from mesh.control.viewpoint import Viewpoint
from mesh.control.wire import answers
from mesh.endpoint import Health

_log = logging.getLogger(__name__)

_HEALTH = {
    Health.SERVING: pb.NODE_HEALTH_SERVING,
    Health.DRAINING: pb.NODE_HEALTH_DRAINING,
    Health.SILENT: pb.NODE_HEALTH_SILENT,
}


class ControlService:
    """Serves `starling.mesh.v1.ControlService`.

    Args:
        controller: what is shown.
        clock, calendar: seconds, monotonic and since 1970.
        routes: file that keeps routes; only memory does without it.
    """

    def __init__(
        self,
        controller: Controller,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
        routes: Path | None = None,
    ) -> None:
        self._controller, self._clock, self._calendar = controller, clock, calendar
        self._started = calendar()
        self._routes = routes
        self._changing = asyncio.Lock()

    @answers
    async def GetMesh(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Returns nodes, gateways, weights and alarms."""
        controller = self._controller
        now_s = self._clock()
        return pb.GetMeshResponse(
            nodes=[describe(member) for member in controller.registry],
            gateways=[_gateway(gateway) for gateway in controller.gateways],
            viewpoints=[self._viewpoint(v) for _, v in sorted(controller.viewpoints.items())],
            start_time=timestamp(self._started),
            alarms=list(find_alarms(controller, now_s)),
            routes=[_describe_route(plan) for _, plan in sorted(controller.plans.items())],
        )

    @answers
    async def SetModelRoute(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Gives a model's versions labels and shares."""
        labels = tuple(Label(label.name, label.version, label.percent) for label in request.route.labels)
        plan = RoutePlan(request.route.model_name, labels)
        await self._change(lambda plans: {**plans, plan.model: plan})
        _log.info("route of %s: %s", plan.model, plan.labels)
        return pb.SetModelRouteResponse(kept=self._routes is not None)

    @answers
    async def DeleteModelRoute(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Takes a model's labels and shares away."""
        if request.model_name not in self._controller.plans:
            raise RouteNotFound(request.model_name)
        await self._change(lambda plans: {name: plan for name, plan in plans.items() if name != request.model_name})
        _log.info("route of %s: none", request.model_name)
        return pb.DeleteModelRouteResponse()

    async def _change(self, change: Callable[[Mapping[str, RoutePlan]], Mapping[str, RoutePlan]]) -> None:
        """Keeps the changed routes, then goes by them; one change after another."""
        async with self._changing:
            plans = change(self._controller.plans)
            if self._routes is not None:
                await asyncio.to_thread(write_routes, self._routes, plans)
            self._controller.set_plans(plans)

    def _viewpoint(self, viewpoint: Viewpoint) -> Any:
        described = pb.Viewpoint(name=viewpoint.name)
        if viewpoint.plan.nodes:
            described.change_time.CopyFrom(self._time(viewpoint.plan.changed_s))
        for name, node in sorted(viewpoint.plan.nodes.items()):
            entry = described.weights.add(
                node=name,
                health=_HEALTH[node.health],
                share=node.share,
                latency=duration(node.settled_s),
                reason=node.reason,
                change_time=self._time(node.changed_s),
            )
            seen = viewpoint.sightings.get(name)
            if seen is None:
                continue
            entry.rate, entry.in_flight = seen.rate, seen.in_flight
            entry.refused_ratio, entry.failed_ratio = seen.refused_ratio, seen.failed_ratio
            if seen.timed_count:
                entry.p50.CopyFrom(duration(seen.p50_s))
                entry.p95.CopyFrom(duration(seen.p95_s))
        return described

    def _time(self, at_s: float) -> Timestamp:
        return timestamp(self._calendar() - self._clock() + at_s)


def find_alarms(controller: Controller, now_s: float) -> Iterator[str]:
    """Yields what a person should look at, one sentence each."""
    for gateway in controller.gateways:
        for kind, reason in sorted(gateway.refusals.items()):
            yield f"gateway {gateway.identity.name} refused its new {kind} and keeps the old one: {reason}"
    if not len(controller.gateways):
        yield "no gateway is connected; agents are served by what their gateways knew last"
    yield from find_route_alarms(controller.find_models(), controller.plans)
    for member in controller.registry:
        if member.state == nodes_pb.NODE_STATE_LOST:
            yield f"node {member.name} is lost: nothing heard for {now_s - member.heard_s:.0f} s"
        elif member.health(now_s) is Health.SILENT:
            yield f"node {member.name} is silent for {now_s - member.heard_s:.1f} s and gets nothing new"
    if not any(e.health is Health.SERVING for e in controller.registry.endpoints(now_s)):
        yield "no node serves; start one with `starling node --control HOST:PORT`"
    for source in controller.alarm_sources:
        yield from source(now_s)


def _describe_route(plan: RoutePlan) -> Any:
    labels = [pb.VersionLabel(name=label.name, version=label.version, percent=label.percent) for label in plan.labels]
    return pb.ModelRoute(model_name=plan.model, labels=labels)


def _gateway(gateway: Any) -> Any:
    described = pb.Gateway(
        name=gateway.identity.name,
        viewpoint=gateway.identity.viewpoint,
        listen_address=str(gateway.identity.listen),
        pushed_count=gateway.pushed,
        accepted_count=gateway.accepted,
        refusals=[pb.Refusal(resource_type=kind, message=why) for kind, why in sorted(gateway.refusals.items())],
    )
    if gateway.last_ack_s is not None:
        described.ack_time.CopyFrom(duration(gateway.last_ack_s))
    return described
