"""A bare OpenVINO loop on one thread: the ceiling that serving is measured against.

    python -m engines.bare_loop --model model.onnx --shape 1,416,416,3 --seconds 2
    python -m engines.bare_loop --model policy.onnx --shape 32,22 --shape 32,16
    python -m engines.bare_loop --native --model policy.onnx --shape 32,22 --shape 32,16

Prints `{"rows_per_s": ..., "run_ms": ...}`; nothing but the engine runs in the loop.
With --native the loop is C++ around the engine of a node; calling from Python costs some 5 us a run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from engines._core import bare_rows_per_s

_WARM_UP_RUNS = 3
_OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}


def measure(model: str, shapes: Sequence[tuple[int, ...]], seconds: float) -> dict[str, float]:
    """Returns rows per second and the median run in milliseconds, compiled as the native engine does it.

    Args:
        model: ONNX or IR file.
        shapes: of the inputs in the order of the file, the batch first and equal in all.
        seconds: how long to run.

    Raises:
        ValueError: another number of shapes than of inputs, or more than one batch.
    """
    core = ov.Core()
    graph = core.read_model(model)
    if len(shapes) != len(graph.inputs) or len({shape[0] for shape in shapes}) != 1:
        names = ", ".join(port.any_name for port in graph.inputs)
        raise ValueError(f"found the shapes {list(shapes)}; expected one for each of {names}, all of one batch")
    graph.reshape({port.any_name: _fixed(port, shape) for port, shape in zip(graph.inputs, shapes, strict=True)})
    compiled = core.compile_model(graph, "CPU", _OPTIONS)
    request = compiled.create_infer_request()
    rng = np.random.default_rng(0)
    for port, shape in zip(compiled.inputs, shapes, strict=True):
        request.set_tensor(port, ov.Tensor(_noise(rng, port.element_type.to_dtype(), shape)))
    for _ in range(_WARM_UP_RUNS):
        request.infer(share_outputs=True)
    runs: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        request.infer(share_outputs=True)
        runs.append(time.perf_counter() - start)
    took = time.perf_counter() - begin
    return {"rows_per_s": len(runs) * shapes[0][0] / took, "run_ms": float(np.median(runs)) * 1e3}


def measure_native(model: str, rows: int, seconds: float) -> dict[str, float]:
    """Returns the same of the native engine; see `engines._core.bare_rows_per_s`."""
    rows_per_s = bare_rows_per_s(model, rows=rows, seconds=seconds)
    return {"rows_per_s": rows_per_s, "run_ms": rows / rows_per_s * 1e3}


def _fixed(port: Any, shape: tuple[int, ...]) -> ov.PartialShape:
    """Returns the shape to compile for: this batch, and what the file leaves open stays open."""
    free = [d if port.partial_shape[i].is_static else -1 for i, d in enumerate(shape)]
    return ov.PartialShape([shape[0], *free[1:]])


def _noise(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def main() -> None:
    """Runs the loop from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shape", required=True, action="append", help="such as 1,416,416,3; one for each input")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--native", action="store_true", help="the node's engine, looped in C++")
    flags = parser.parse_args()
    shapes = [tuple(map(int, shape.split(","))) for shape in flags.shape]
    if flags.native:
        print(json.dumps(measure_native(flags.model, shapes[0][0], flags.seconds)))
    else:
        print(json.dumps(measure(flags.model, shapes, flags.seconds)))


if __name__ == "__main__":
    main()
