"""How long one structural similarity takes on this core: ours and, where it is installed, scikit-image's.

    python -m engines.ssim_loop --side 416 --seconds 2

Prints `{"ours_us": ..., "ours": ..., "skimage_us": ..., "skimage": ...}`: medians and what they computed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from engines._core import ssim

_WINDOW = 7
_WARM_UP_RUNS = 3


def measure(side: int, seconds: float) -> dict[str, float]:
    """Returns the median microseconds of both and their results, on two seeded planes of uint8[side, side].

    Raises:
        ImportError: scikit-image is not installed; it is a development dependency, for this comparison alone.
    """
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(side), np.arange(side)) % 256
    a = smooth.astype(np.uint8)
    b = np.clip(smooth + rng.normal(0, 8, (side, side)), 0, 255).astype(np.uint8)

    def theirs() -> float:
        # The same definition: a uniform window, its borders left out.
        return float(structural_similarity(a, b, win_size=_WINDOW, data_range=255))  # type: ignore[no-untyped-call]

    ours_us, ours = _median_us(lambda: ssim(a, b), seconds / 2)
    theirs_us, found = _median_us(theirs, seconds / 2)
    return {"ours_us": ours_us, "ours": ours, "skimage_us": theirs_us, "skimage": found}


def _median_us(run: Callable[[], float], seconds: float) -> tuple[float, float]:
    for _ in range(_WARM_UP_RUNS):
        result = run()
    spent: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        result = run()
        spent.append(time.perf_counter() - start)
    return median(spent) * 1e6, result


def main() -> None:
    """Measures from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=416)
    parser.add_argument("--seconds", type=float, default=2.0)
    flags = parser.parse_args()
    print(json.dumps(measure(flags.side, flags.seconds)))


if __name__ == "__main__":
    main()
