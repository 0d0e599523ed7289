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
from services.host.certificates import CertificateFollower
from services.predict._dataplane import Server

_LABELS = ("model", "version")
_HISTOGRAMS = {
    "total": ("starling_request_duration_seconds", "Arrival to answer of answered requests"),
    "queue": ("starling_queue_duration_seconds", "Arrival to start of the engine"),
    "batch_wait": ("starling_batch_wait_seconds", "Part of the queue time in which an engine was idle"),
    "early": ("starling_prediction_early_seconds", "Completion before its prediction, of answered requests"),
    "late": ("starling_prediction_late_seconds", "Completion after its prediction, of answered requests"),
    "compute": ("starling_compute_duration_seconds", "Engine and post-processing of a batch"),
}


class NodeCollector(Collector):
    """Reads the native counters when scraped; nothing is counted in Python."""

    def __init__(
        self, registry: ModelRegistry, server: Server, certificates: CertificateFollower | None = None
    ) -> None:
        self._registry = registry
        self._server = server
        self._certificates = certificates

    def collect(self) -> Iterator[Metric]:
        """Yields every metric family; counters of a model restart at zero when it is loaded again."""
        models = self._registry.models()
        yield from _histograms(models)
        yield from _counters(models)
        yield from _classes(models)
        yield from _estimates(models)
        yield from _autopilots([model for model in models if model["autopilot"] is not None])
        yield from _triton(models)
        stats = self._server.stats()
        calls = GaugeMetricFamily("starling_calls_in_flight", "gRPC calls that are not answered yet")
        calls.add_metric((), stats["calls_in_flight"])
        yield calls
        yield from _caches(stats)
        malformed = CounterMetricFamily("starling_malformed_requests", "Predict messages that could not be parsed")
        malformed.add_metric((), stats["malformed"])
        yield malformed
        unknown = CounterMetricFamily("starling_unknown_model_requests", "Requests for a version that is not loaded")
        unknown.add_metric((), stats["model_not_found"])
        yield unknown
        if self._certificates is not None:
            yield from _tls(self._certificates, stats)


def _tls(certificates: CertificateFollower, stats: Mapping[str, int]) -> Iterator[Metric]:
    end = GaugeMetricFamily(
        "starling_tls_certificate_end_seconds", "Unix time at which the first certificate in use ends; renew before"
    )
    end.add_metric((), certificates.current.end.timestamp())
    failures = CounterMetricFamily(
        "starling_tls_reload_failures", "Replaced certificate files that could not be used; the log says why"
    )
    failures.add_metric((), certificates.failures)
    refused = CounterMetricFamily(
        "starling_tls_refused_clients", "Connections of good certificates whose SPIFFE id is not among --tls-client"
    )
    refused.add_metric((), stats["tls_refused"])
    yield from (end, failures, refused)


def _labels(model: Mapping[str, Any]) -> tuple[str, str]:
    return model["name"], str(model["version"])


def _histograms(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    for key, (name, text) in _HISTOGRAMS.items():
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for model in models:
            family.add_metric(_labels(model), *_histogram(model[key]))
        yield family


def _histogram(histogram: Mapping[str, Any]) -> tuple[list[tuple[str, float]], float]:
    buckets = [(_seconds(upper), float(count)) for upper, count in histogram["buckets"]]
    buckets.append(("+Inf", float(histogram["count"])))
    return buckets, histogram["sum_us"] / 1e6


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
    kept = GaugeMetricFamily("starling_sequences", "Sequences whose state is kept", labels=_LABELS)
    started = CounterMetricFamily("starling_sequences_started", "Sequences that were begun", labels=_LABELS)
    expired = CounterMetricFamily(
        "starling_sequences_expired", "Sequences forgotten because they were idle", labels=_LABELS
    )
    displaced = CounterMetricFamily(
        "starling_sequences_displaced", "Sequences forgotten to make room for another tenant", labels=_LABELS
    )
    for model in models:
        labels = _labels(model)
        displaced.add_metric(labels, model["sequences_displaced"])
        kept.add_metric(labels, model["sequences"])
        started.add_metric(labels, model["sequences_started"])
        expired.add_metric(labels, model["sequences_expired"])
        for reason, count in model["finished"].items():
            requests.add_metric((*labels, reason), count)
        rows.add_metric(labels, model["rows"])
        runs.add_metric(labels, model["executions"])
        late.add_metric(labels, model["expired_executed"])
        queued.add_metric(labels, model["queued"])
    yield from (requests, rows, runs, late, queued, kept, started, expired, displaced)


def _caches(stats: Mapping[str, int]) -> Iterator[Metric]:
    frames = CounterMetricFamily(
        "starling_frame_cache_lookups", "Frames compared with their stream's last answered one", labels=("match",)
    )
    for key, count in stats.items():
        if key.startswith("frame_cache_") and key not in ("frame_cache_bytes", "frame_cache_evictions"):
            frames.add_metric((key.removeprefix("frame_cache_"),), count)
    yield frames
    for name, text in (
        ("degraded", "Requests answered by an alternative they allowed"),
        ("tensor_bytes_in", "Bytes of input tensors"),
        ("tensor_bytes_in_copied", "Bytes of input tensors copied beside the one copy into the batch"),
        ("tensor_bytes_out", "Bytes of output tensors"),
        ("tensor_bytes_out_copied", "Bytes of output tensors copied beside the one copy out of the engine"),
        ("frame_cache_evictions", "Answers dropped from the frame cache to make room"),
        ("response_cache_hits", "Requests answered from equal inputs"),
        ("response_cache_misses", "Requests whose inputs were not remembered"),
    ):
        counter = CounterMetricFamily(f"starling_{name}", text)
        counter.add_metric((), stats[name])
        yield counter
    for name in ("frame_cache_bytes", "response_cache_bytes"):
        gauge = GaugeMetricFamily(f"starling_{name}", "Memory that the cache keeps alive")
        gauge.add_metric((), stats[name])
        yield gauge


def _classes(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = (*_LABELS, "priority")
    met = CounterMetricFamily("starling_deadlines_met", "Requests answered before their deadline", labels=labels)
    missed = CounterMetricFamily(
        "starling_deadlines_missed",
        "Requests answered late, refused or dropped; not invalid or cancelled ones",
        labels=labels,
    )
    slack = HistogramMetricFamily("starling_slack_seconds", "Time left at completion", labels=labels)
    lateness = HistogramMetricFamily("starling_lateness_seconds", "Time over at completion", labels=labels)
    for model in models:
        for priority, of_class in enumerate(model["classes"]):
            key = (*_labels(model), str(priority))
            met.add_metric(key, of_class["met"])
            missed.add_metric(key, of_class["missed"])
            slack.add_metric(key, *_histogram(of_class["slack"]))
            lateness.add_metric(key, *_histogram(of_class["lateness"]))
    yield from (met, missed, slack, lateness)


def _estimates(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    estimate = GaugeMetricFamily(
        "starling_run_time_estimate_seconds",
        "Engine time of a batch as admission expects it now",
        labels=(*_LABELS, "batch_size", "quantile"),
    )
    admission = GaugeMetricFamily(
        "starling_admission_seconds_p50",
        "Median cost of deciding about a request since the model was loaded",
        labels=_LABELS,
    )
    margin = GaugeMetricFamily(
        "starling_admission_margin_seconds",
        "Kept free at most before the deadline of a request that has to wait, as answers come later than predicted",
        labels=_LABELS,
    )
    hung = CounterMetricFamily("starling_hung_runs", "Runs given up by the watchdog", labels=_LABELS)
    healthy = GaugeMetricFamily("starling_model_healthy", "0 after several failures in a row", labels=_LABELS)
    for model in models:
        for bucket in model["buckets"]:
            key = (*_labels(model), str(bucket["batch_size"]))
            estimate.add_metric((*key, "0.5"), bucket["median_us"] / 1e6)
            estimate.add_metric((*key, "0.9"), bucket["high_us"] / 1e6)
        admission.add_metric(_labels(model), model["admission_p50_ns"] / 1e9)
        margin.add_metric(_labels(model), model["margin_us"] / 1e6)
        hung.add_metric(_labels(model), model["hung"])
        healthy.add_metric(_labels(model), float(model["healthy"]))
    yield from (estimate, admission, margin, hung, healthy)


def _autopilots(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    def family(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"starling_autopilot_{name}", text, labels=(*_LABELS, "setting"))

    objective = GaugeMetricFamily(
        "starling_slo_p99_seconds", "Objective for the 99th percentile of arrival to answer", labels=_LABELS
    )
    delay = family("batch_delay_seconds", "Longest wait of a batch for more, applied now and advised next")
    rows = family("batch_rows_max", "Rows of the largest batch, applied now and advised next")
    slots = family("concurrency", "Batches that may run at once, applied now and advised next")
    bound = family("admission_bound_seconds", "Longest predicted time to an answer that is admitted, 0 for no bound")
    changes = CounterMetricFamily(
        "starling_autopilot_changes",
        "Decisions that changed something, or would have in mode advise",
        labels=(*_LABELS, "reason"),
    )
    for model in models:
        pilot = model["autopilot"]
        objective.add_metric(_labels(model), pilot["slo_p99_us"] / 1e6)
        for which in ("applied", "advised"):
            labels, setting = (*_labels(model), which), pilot[which]
            delay.add_metric(labels, setting["batch_delay_us"] / 1e6)
            rows.add_metric(labels, pilot["bucket_rows"][setting["largest_bucket"]])
            slots.add_metric(labels, setting["slots"])
            bound.add_metric(labels, setting["bound_us"] / 1e6)
        for reason, count in pilot["changes"].items():
            changes.add_metric((*_labels(model), reason), count)
    yield from (objective, delay, rows, slots, bound, changes)


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
