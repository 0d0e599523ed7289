"""Structural similarity of two frames, what the frame cache compares with: ours against scikit-image's."""

from __future__ import annotations

import sys
from statistics import median

from mesh.bench.result import Bar, Result, Row, spread
from mesh.bench.rig import BenchFailed, Rig

_SIDE = 416
_ROUNDS = 5
_SECONDS = 1.0
_TOLERANCE = 1e-3


async def run(rig: Rig) -> Result:
    """Measures the similarity of two luma planes of 416x416 on one core, beside scikit-image's."""
    rounds = []
    for _ in range(_ROUNDS):
        found = await rig.run_json(
            *(sys.executable, "-P", "-m", "engines.ssim_loop", "--side", str(_SIDE), "--seconds", str(_SECONDS)),
            core=rig.server_core,
            timeout_s=60,
        )
        if abs(found["ours"] - found["skimage"]) > _TOLERANCE:
            raise BenchFailed(f"ours says {found['ours']:.4f}, scikit-image {found['skimage']:.4f}: not the same work")
        rounds.append(found)
    times = {name: [found[f"{name}_us"] for found in rounds] for name in ("ours", "skimage")}
    rows: list[Row] = [{"ssim": name, "us": median(spent), **_extremes(spent)} for name, spent in times.items()]
    return Result(
        name="ssim",
        rows=rows,
        bars=(
            Bar(f"SSIM of {_SIDE}x{_SIDE}, us", 150, median(times["ours"]), at_most=True),
            Bar("times as fast as scikit-image's", 10, median(times["skimage"]) / median(times["ours"])),
        ),
        notes=(f"medians of {_ROUNDS} rounds on one core, called from Python; both with a uniform window of 7x7",),
    )


def _extremes(spent: list[float]) -> dict[str, float]:
    found = spread(spent)
    return {"min": found["min"], "max": found["max"]}
