"""Prometheus metrics of a node: our histograms, and the `nv_inference_*` names that Triton's dashboards expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from engines._core import ModelRegistry
from services.predict._dataplane import Server

_LABELS = ("model", "version")
_HISTOGRAMS = {
    "total": ("starling_request_duration_seconds", "Arrival to answer of answered requests"),
    "queue": ("starling_queue_duration_seconds", "Arrival to start of the engine"),
    "compute": ("starling_compute_duration_seconds", "Engine and post-processing of a batch"),
}


class NodeCollector(Collector):
    """Reads the native counters when scraped; nothing is counted in Python."""

    def __init__(self, registry: ModelRegistry, server: Server) -> None:
        self._registry = registry
        self._server = server

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family; counters of a model restart at zero when it is loaded again."""
        models = self._registry.models()
        yield from _histograms(models)
        yield from _counters(models)
        yield from _triton(models)
        stats = self._server.stats()
        calls = GaugeMetricFamily("starling_calls_in_flight", "gRPC calls that are not answered yet")
        calls.add_metric((), stats["calls_in_flight"])
        yield calls
        malformed = CounterMetricFamily("starling_malformed_requests", "Predict messages that could not be parsed")
        malformed.add_metric((), stats["malformed"])
        yield malformed
        unknown = CounterMetricFamily("starling_unknown_model_requests", "Requests for a version that is not loaded")
        unknown.add_metric((), stats["model_not_found"])
        yield unknown


def _labels(model: Mapping[str, Any]) -> tuple[str, str]:
    return model["name"], str(model["version"])


def _histograms(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    for key, (name, text) in _HISTOGRAMS.items():
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for model in models:
            histogram = model[key]
            buckets = [(_seconds(upper), float(count)) for upper, count in histogram["buckets"]]
            buckets.append(("+Inf", float(histogram["count"])))
            family.add_metric(_labels(model), buckets, histogram["sum_us"] / 1e6)
        yield family


def _seconds(upper_us: int) -> str:
    # An edge is inclusive in whole microseconds; the next one starts half a microsecond later.
    return repr((upper_us + 0.5) / 1e6)


def _counters(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "starling_requests", "Finished requests by reason, OK when answered", labels=(*_LABELS, "reason")
    )
    rows = CounterMetricFamily("starling_rows", "Rows answered", labels=_LABELS)
    runs = CounterMetricFamily("starling_executions", "Engine runs", labels=_LABELS)
    late = CounterMetricFamily(
        "starling_expired_executed", "Requests that an engine ran after their deadline", labels=_LABELS
    )
    queued = GaugeMetricFamily("starling_queue_requests", "Requests that wait", labels=_LABELS)
    for model in models:
        labels = _labels(model)
        for reason, count in model["finished"].items():
            requests.add_metric((*labels, reason), count)
        rows.add_metric(labels, model["rows"])
        runs.add_metric(labels, model["executions"])
        late.add_metric(labels, model["expired_executed"])
        queued.add_metric(labels, model["queued"])
    yield from (requests, rows, runs, late, queued)


def _triton(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    def family(name: str, text: str) -> GaugeMetricFamily:
        # Triton's counters have no `_total` suffix, which the client library adds to counters.
        return GaugeMetricFamily(name, text, labels=_LABELS)

    success = family("nv_inference_request_success", "Answered requests (cumulative)")
    failure = family("nv_inference_request_failure", "Refused or failed requests (cumulative)")
    count = family("nv_inference_count", "Rows answered (cumulative)")
    runs = family("nv_inference_exec_count", "Engine runs (cumulative)")
    pending = family("nv_inference_pending_request_count", "Requests that wait")
    total_us = family("nv_inference_request_duration_us", "Time of answered requests (cumulative)")
    queue_us = family("nv_inference_queue_duration_us", "Time in the queue (cumulative)")
    infer_us = family("nv_inference_compute_infer_duration_us", "Time in the engine (cumulative)")
    for model in models:
        labels = _labels(model)
        finished = model["finished"]
        success.add_metric(labels, finished["OK"])
        failure.add_metric(labels, sum(finished.values()) - finished["OK"])
        count.add_metric(labels, model["rows"])
        runs.add_metric(labels, model["executions"])
        pending.add_metric(labels, model["queued"])
        total_us.add_metric(labels, model["total"]["sum_us"])
        queue_us.add_metric(labels, model["queue"]["sum_us"])
        infer_us.add_metric(labels, model["compute"]["sum_us"])
    yield from (success, failure, count, runs, pending, total_us, queue_us, infer_us)
