"""A bare OpenVINO loop on one thread: the ceiling that serving is measured against.

    python -m engines.bare_loop --model model.onnx --shape 1,416,416,3 --seconds 2

Prints `{"rows_per_s": ..., "run_ms": ...}`; nothing but the engine runs in the loop.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import openvino as ov

_WARM_UP_RUNS = 3


def measure(model: str, shape: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Returns rows per second and the median run in milliseconds, compiled as the native engine does it.

    Args:
        model: ONNX or IR file with one uint8 input.
        shape: of the input, the batch first.
        seconds: how long to run.
    """
    core = ov.Core()
    graph = core.read_model(model)
    name = graph.inputs[0].any_name
    free = [d if graph.inputs[0].partial_shape[i].is_static else -1 for i, d in enumerate(shape)]
    graph.reshape({name: ov.PartialShape([shape[0], *free[1:]])})
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(graph, "CPU", options).create_infer_request()
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    request.set_input_tensor(ov.Tensor(frame))
    for _ in range(_WARM_UP_RUNS):
        request.infer()
    runs: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        request.infer()
        runs.append(time.perf_counter() - start)
    took = time.perf_counter() - begin
    return {"rows_per_s": len(runs) * shape[0] / took, "run_ms": float(np.median(runs)) * 1e3}


def main() -> None:
    """Runs the loop from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--shape", required=True, help="such as 1,416,416,3")
    parser.add_argument("--seconds", type=float, default=2.0)
    flags = parser.parse_args()
    print(json.dumps(measure(flags.model, tuple(map(int, flags.shape.split(","))), flags.seconds)))


if __name__ == "__main__":
    main()
