"""How busy the node is, as a load report; and what it has loaded, as it tells the control plane."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from google.protobuf.duration_pb2 import Duration
from starling.mesh.v1 import node_service_pb2 as pb

from engines import ModelConfig
from engines._core import ModelRegistry
from services.predict._dataplane import Server
from services.predict.models import NodeModels
from services.predict.settings import NodeSettings, Tier

_TIERS = {Tier.EDGE: pb.TIER_EDGE, Tier.CLOUD: pb.TIER_CLOUD}
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ANSWERED = "OK"
_REJECTED = frozenset({"QUEUE_FULL", "DEADLINE_UNMEETABLE", "QUOTA_EXCEEDED"})


def describe_node(settings: NodeSettings, grpc_address: str, metrics_address: str) -> Any:
    """Returns the node as it registers, without its models."""
    cores = len(os.sched_getaffinity(0))
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES
    return pb.Node(
        name=settings.name,
        tier=_TIERS[settings.tier],
        zone=settings.zone,
        grpc_address=grpc_address,
        metrics_address=metrics_address,
        capabilities=pb.Capabilities(
            engines=["openvino_cpu"], core_count=float(cores), memory_bytes=memory_bytes, cpu_features=_cpu_features()
        ),
        software_version=_read_version(),
    )


def describe_models(models: NodeModels) -> list[Any]:
    """Returns the loaded versions as the control plane is told of them."""
    return [
        pb.NodeModel(
            name=model.native["name"],
            version=model.native["version"],
            ready=model.native["healthy"],
            affinity=_read_affinity(model.found.config),
        )
        for model in models.loaded()
    ]


def _read_affinity(config: ModelConfig) -> pb.Affinity.ValueType:
    if config.states:
        return pb.AFFINITY_SEQUENCE
    return pb.AFFINITY_AGENT if config.agent_affinity else pb.AFFINITY_UNSPECIFIED


class LoadMeter:
    """Reads the native counters and tells what happened since the last time. One thread at a time."""

    def __init__(self, registry: ModelRegistry, server: Server) -> None:
        self._registry, self._server = registry, server
        self._before: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._before_s = time.monotonic()
        self._cpu_before_s = time.process_time()
        self._cores = len(os.sched_getaffinity(0))

    def read(self) -> Any:
        """Returns the report of the time since the last one."""
        now_s, cpu_s = time.monotonic(), time.process_time()
        window_s = max(now_s - self._before_s, 1e-3)
        used = (cpu_s - self._cpu_before_s) / (window_s * self._cores)
        report = pb.LoadReport(
            window=_duration_us(int(window_s * 1e6)),
            cpu_ratio=min(1.0, max(0.0, used)),
            memory_bytes=_read_resident_bytes(),
            in_flight_count=self._server.stats()["calls_in_flight"],
        )
        report.report_time.GetCurrentTime()
        models: dict[tuple[str, int], Mapping[str, Any]] = {}
        for found in self._registry.models():
            models[found["name"], found["version"]] = found
        for key, model in models.items():
            report.models.append(_model_load(model, self._before.get(key)))
        self._before, self._before_s, self._cpu_before_s = models, now_s, cpu_s
        return report

    def __repr__(self) -> str:
        """Returns the number of models it follows."""
        return f"<LoadMeter models={len(self._before)}>"


def _model_load(model: Mapping[str, Any], before: Mapping[str, Any] | None) -> Any:
    finished = dict(model["finished"])
    rows, runs = model["rows"], model["executions"]
    if before is not None and before["rows"] <= rows:  # counters restart when a version is loaded again
        finished = {reason: count - before["finished"].get(reason, 0) for reason, count in finished.items()}
        rows, runs = rows - before["rows"], runs - before["executions"]
    else:
        before = None
    answered = finished.get(_ANSWERED, 0)
    rejected = sum(count for reason, count in finished.items() if reason in _REJECTED)
    load = pb.ModelLoad(
        name=model["name"],
        version=model["version"],
        queue_count=model["queued"],
        answered_count=answered,
        rejected_count=rejected,
        failed_count=sum(finished.values()) - answered - rejected,
        batch_size_mean=rows / runs if runs else 0.0,
    )
    for kind in ("queue", "compute"):
        counts = _since(model[kind]["buckets"], before[kind]["buckets"] if before is not None else ())
        for quantile, name in ((0.5, "p50"), (0.99, "p99")):
            found_us = _quantile_us(counts, quantile)
            if found_us is not None:
                getattr(load, f"{kind}_{name}").CopyFrom(_duration_us(found_us))
    return load


def _since(now: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns cumulative counts by upper edge of what came since; the edges only grow in number."""
    counted = dict(before)
    latest = 0
    out = []
    for upper_us, count in now:
        latest = counted.get(upper_us, latest)
        out.append((upper_us, count - latest))
    return out


def _quantile_us(cumulative: Sequence[tuple[int, int]], quantile: float) -> int | None:
    total = cumulative[-1][1] if cumulative else 0
    if total <= 0:
        return None
    return next(upper_us for upper_us, count in cumulative if count >= quantile * total)


def _duration_us(microseconds: int) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(microseconds)
    return duration


def _read_resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123  # four times a second
        return int(statm.read().split()[1]) * _PAGE_BYTES


def _cpu_features() -> list[str]:
    """Returns the instruction sets that engines care about and this machine has."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:  # noqa: PTH123
        flags = next((line.partition(":")[2].split() for line in cpuinfo if line.startswith("flags")), [])
    return [name for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if name in flags]


def _read_version() -> str:
    try:
        return version("starling-mesh")
    except PackageNotFoundError:
        return ""
