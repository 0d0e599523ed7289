"""How well services are followed, as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mesh.control.kubernetes.discovery import KubernetesDiscovery


class KubernetesCollector(Collector):
    """Shows each follower. Scraped from another thread: it reads single values only."""

    def __init__(self, discovery: KubernetesDiscovery) -> None:
        self._discovery = discovery

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family."""
        labels = ("service",)
        follows = GaugeMetricFamily("starling_control_service_followed", "1 while changes are heard of", labels=labels)
        lists = CounterMetricFamily("starling_control_service_lists", "Times that all slices were read", labels=labels)
        events = CounterMetricFamily("starling_control_service_events", "Changes and bookmarks", labels=labels)
        failures = CounterMetricFamily(
            "starling_control_service_failures", "Calls of the API server that failed or broke", labels=labels
        )
        for follower in self._discovery.followers:
            name = (str(follower.service),)
            follows.add_metric(name, follower.synced and not follower.problem)
            lists.add_metric(name, follower.lists)
            events.add_metric(name, follower.events)
            failures.add_metric(name, follower.failures)
        yield from (follows, lists, events, failures)
