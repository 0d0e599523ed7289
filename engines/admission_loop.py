"""How long deciding about one request takes on this core, with no server around it.

    python -m engines.admission_loop --queued 8 --tenants 2 --cold

Prints `{"p50_us": ..., "p99_us": ...}` over admitted and refused requests alike.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from engines._core import admission_ns


def measure(*, queued: int, tenants: int, cold: bool, runs: int) -> dict[str, float]:
    """Returns the median and the 99th percentile in microseconds.

    Args:
        queued: requests that wait already.
        tenants: who share them.
        cold: caches are used for something else between decisions, as a convnet does.
        runs: decisions.
    """
    spent_us = np.asarray(admission_ns(queued=queued, tenants=tenants, cold=cold, runs=runs)) / 1e3
    return {"p50_us": float(np.percentile(spent_us, 50)), "p99_us": float(np.percentile(spent_us, 99))}


def main() -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queued", type=int, default=0)
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--runs", type=int, default=2000)
    flags = parser.parse_args()
    print(json.dumps(measure(queued=flags.queued, tenants=flags.tenants, cold=flags.cold, runs=flags.runs)))


if __name__ == "__main__":
    main()
