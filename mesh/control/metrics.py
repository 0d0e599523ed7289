"""Prometheus metrics of the control plane, read when scraped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.control.access import Access
from mesh.control.access_log import AccessLog
from mesh.control.controller import Controller
from mesh.control.rate_limits import RateLimits
from mesh.control.status_service import find_alarms
from mesh.control.tls import ServerTls
from mesh.endpoint import Health

_SEEN = ("viewpoint", "node")


class ControlCollector(Collector):
    """Shows nodes, gateways and weights. Scraped from another thread: it reads copies and single values only."""

    def __init__(
        self,
        controller: Controller,
        access_log: AccessLog,
        limits: RateLimits | None = None,
        tls: ServerTls | None = None,
        access: Access | None = None,
    ) -> None:
        self._controller, self._access_log, self._limits = controller, access_log, limits
        self._tls, self._access = tls, access

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family."""
        controller = self._controller
        now_s = time.monotonic()
        nodes = GaugeMetricFamily("starling_control_nodes", "Known nodes by health", labels=("health",))
        healths = Counter(member.health(now_s) for member in controller.registry)
        for health in Health:
            nodes.add_metric((str(health),), healths[health])
        yield nodes
        alarms = GaugeMetricFamily("starling_control_alarms", "Things that a person should look at")
        alarms.add_metric((), len(list(find_alarms(controller, now_s))))
        yield alarms
        entries = CounterMetricFamily("starling_control_access_log_entries", "Tries that gateways told of")
        entries.add_metric((), self._access_log.entries)
        yield entries
        late = CounterMetricFamily("starling_control_late_ticks", "Rounds that came too late to judge silence")
        late.add_metric((), controller.late_ticks)
        yield late
        if self._limits is not None:
            counted = CounterMetricFamily(
                "starling_control_rate_limit_answers",
                "Requests that gateways asked about, if they count over all gateways",
                labels=("answer",),
            )
            counted.add_metric(("allowed",), self._limits.allowed)
            counted.add_metric(("refused",), self._limits.refused)
            yield counted
        if self._tls is not None and self._access is not None:
            yield from _security(self._tls, self._access)
        yield from self._gateways()
        yield from self._weights()

    def _gateways(self) -> Iterator[Metric]:
        labels = ("gateway",)
        pushed = CounterMetricFamily("starling_control_pushes", "Configurations sent since it connected", labels=labels)
        refused = GaugeMetricFamily(
            "starling_control_refused", "Kinds of resource kept in their old form", labels=labels
        )
        ack = GaugeMetricFamily(
            "starling_control_ack_seconds", "From the last configuration to its verdict", labels=labels
        )
        for gateway in self._controller.gateways:
            name = (gateway.identity.name,)
            pushed.add_metric(name, gateway.pushed)
            refused.add_metric(name, len(gateway.refusals))
            if gateway.last_ack_s is not None:
                ack.add_metric(name, gateway.last_ack_s)
        yield from (pushed, refused, ack)

    def _weights(self) -> Iterator[Metric]:
        share = GaugeMetricFamily("starling_control_share_ratio", "Share of the traffic by weights alone", labels=_SEEN)
        latency = GaugeMetricFamily(
            "starling_control_latency_seconds", "Latency that the weight is made of", labels=_SEEN
        )
        p95 = GaugeMetricFamily("starling_control_latency_seconds_p95", "Of the last second", labels=_SEEN)
        rate = GaugeMetricFamily("starling_control_tries_per_second", "Tries of the last second", labels=_SEEN)
        refused = GaugeMetricFamily("starling_control_refused_ratio", "Share of tries that were refused", labels=_SEEN)
        failed = GaugeMetricFamily("starling_control_failed_ratio", "Share of tries that broke", labels=_SEEN)
        for viewpoint in list(self._controller.viewpoints.values()):
            for name, node in viewpoint.plan.nodes.items():
                key = (viewpoint.name, name)
                share.add_metric(key, node.share)
                latency.add_metric(key, node.settled_s)
                seen = viewpoint.sightings.get(name)
                if seen is None:
                    continue
                rate.add_metric(key, seen.rate)
                refused.add_metric(key, seen.refused_ratio)
                failed.add_metric(key, seen.failed_ratio)
                if seen.timed_count:
                    p95.add_metric(key, seen.p95_s)
        yield from (share, latency, p95, rate, refused, failed)


def _security(tls: ServerTls, access: Access) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "starling_control_callers_refused", "Calls of holders of a certificate who may not", labels=("service",)
    )
    for service, count in list(access.refused.items()):
        refused.add_metric((service,), count)
    yield refused
    end = GaugeMetricFamily(
        "starling_tls_certificate_end_seconds", "Unix time at which the first certificate in use ends; renew before"
    )
    end.add_metric((), tls.follower.current.end.timestamp())
    yield end
    failures = CounterMetricFamily(
        "starling_tls_reload_failures", "Replaced certificate files that could not be used; the log says why"
    )
    failures.add_metric((), tls.follower.failures)
    yield failures
