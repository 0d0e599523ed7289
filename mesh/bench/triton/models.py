"""The models that Triton serves beside ours: the same graphs by the same runtime, batched as suits Triton best."""

from __future__ import annotations

from pathlib import Path

from mesh.bench.triton.repository import TritonModel, TritonTensor

DETECTIONS = 100
"""Boxes per frame in the answers of `nanodet_model`, as many as our node answers with."""

# Measured: a delay of 100 us gains a fifth under load, and one process is better than two on one core.
DELAY_US = 100


def identity_model(floats: int = 64, delay_us: int = DELAY_US) -> TritonModel:
    """Returns `identity64` and the like: `x` comes back as `y`."""
    name = f"identity{floats}"
    x, y = (TritonTensor(tensor, "TYPE_FP32", (floats,)) for tensor in "xy")
    return TritonModel(name, "identity", (x,), (y,), max_batch_size=64, queue_delay_us=delay_us)


def embedder_model(graph: Path, name: str = "mobilenetv2-int8", delay_us: int = 0) -> TritonModel:
    """Returns the image embedding: a frame to 1280 numbers."""
    return TritonModel(
        name,
        "openvino_graph",
        (TritonTensor("frame", "TYPE_UINT8", (-1, -1, 3)),),
        (TritonTensor("embedding", "TYPE_FP32", (1280,)),),
        max_batch_size=4,
        queue_delay_us=delay_us,
        parameters={"graph": str(graph), "batches": "1 2 4"},
    )


def raptor_model(graph: Path, name: str = "raptor", delay_us: int = DELAY_US) -> TritonModel:
    """Returns the policy network: `obs` and `h` to `action` and `h_out`, compiled for some batch sizes."""
    return TritonModel(
        name,
        "openvino_graph",
        (TritonTensor("obs", "TYPE_FP32", (22,)), TritonTensor("h", "TYPE_FP32", (16,))),
        (TritonTensor("action", "TYPE_FP32", (4,)), TritonTensor("h_out", "TYPE_FP32", (16,))),
        max_batch_size=64,
        queue_delay_us=delay_us,
        parameters={"graph": str(graph), "batches": "1 8 32 64"},
    )


def nanodet_model(graph: Path, name: str = "nanodet", delay_us: int = 0) -> TritonModel:
    """Returns the detector: a frame to its best boxes by score, which is less work than our suppression."""
    return TritonModel(
        name,
        "openvino_detector",
        (TritonTensor("frame", "TYPE_UINT8", (-1, -1, 3)),),
        (
            TritonTensor("boxes", "TYPE_FP32", (DETECTIONS, 4)),
            TritonTensor("scores", "TYPE_FP32", (DETECTIONS,)),
            TritonTensor("classes", "TYPE_INT32", (DETECTIONS,)),
        ),
        max_batch_size=4,
        queue_delay_us=delay_us,
        parameters={"graph": str(graph), "batches": "1 2 4", "detections": str(DETECTIONS)},
    )
