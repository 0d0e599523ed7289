"""The detector: frames served over gRPC against a bare loop of the same engine."""

from __future__ import annotations

import os
import sys
from statistics import median

from mesh.assets import get_repository
from mesh.bench.requests import write_frame_request
from mesh.bench.result import Bar, Result, Row, spread
from mesh.bench.rig import Rig

_MODEL = "nanodet"
_SIDE = 416
_ROUNDS = 5
_SECONDS = 4.0
_OUTSTANDING = 3
_BATCHES = (1, 2, 4)


async def run(rig: Rig) -> Result:
    """Measures frames per second on one core, served and bare taking turns."""
    repository = get_repository(os.environ)
    request = write_frame_request(rig.folder, _MODEL, _SIDE, _SIDE)
    node = await rig.start_node(repository, _MODEL)
    graph = repository / _MODEL / "1" / "model.onnx"
    served: list[float] = []
    bare: dict[int, list[float]] = {}
    for _ in range(_ROUNDS):
        load = await rig.load(node, request, outstanding=_OUTSTANDING, seconds=_SECONDS)
        served.append(load.rps)
        for batch in _BATCHES:
            loop = await rig.run_json(
                *(sys.executable, "-P", "-m", "engines.bare_loop", "--model", str(graph)),
                *("--shape", f"{batch},{_SIDE},{_SIDE},3", "--seconds", str(_SECONDS / 2)),
                core=rig.server_core,
                timeout_s=60,
            )
            bare.setdefault(batch, []).append(loop["rows_per_s"])
    best = max(_BATCHES, key=lambda batch: median(bare[batch]))
    rows: list[Row] = [_row("served over gRPC", served)]
    rows += [_row(f"bare loop, batch {batch}", rates) for batch, rates in bare.items()]
    return Result(
        name="detector",
        rows=rows,
        bars=(Bar("served frames/s / the best bare OpenVINO loop", 0.9, median(served) / median(bare[best])),),
        notes=(
            f"{_MODEL} INT8 at {_SIDE}x{_SIDE}, engine on one core, load generator on another;",
            f"{_OUTSTANDING} frames outstanding; medians of {_ROUNDS} rounds; serving adds transport, NMS and scatter",
        ),
    )


def _row(name: str, rates: list[float]) -> Row:
    found = spread(rates)
    return {"what": name, "frames/s": found["median"], "min": found["min"], "max": found["max"]}
