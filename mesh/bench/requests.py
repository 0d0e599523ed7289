"""The requests that benchmarks send, and the repository of the model that only echoes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starling.predict.v1.predict_service_pb2 import PredictRequest
from starling.tensor.v1.tensor_pb2 import DATA_TYPE_FP32, DATA_TYPE_UINT8

from mesh.bench.oip import write_infer_request
from mesh.bench.repositories import write_identity

ECHO_FLOATS = 64
_DATA_TYPES = {np.dtype(np.float32): DATA_TYPE_FP32, np.dtype(np.uint8): DATA_TYPE_UINT8}


def write_echo_repository(folder: Path) -> Path:
    """Writes a repository whose model `echo` returns its 64 floats; returns it."""
    return write_identity(folder / "repository", "echo", ECHO_FLOATS, rows_max=16)


def write_echo_request(folder: Path) -> Path:
    """Writes a serialised request for `echo`; returns the file."""
    return write_request(folder / "echo.request", "echo", {"x": np.arange(ECHO_FLOATS, dtype=np.float32)[None]})


def write_frame_request(folder: Path, model: str, height: int, width: int) -> Path:
    """Writes a request with one frame of seeded noise; a detector's work does not depend on the picture."""
    return write_request(folder / f"{model}.request", model, make_frames(1, height, width))


def make_frames(count: int, height: int, width: int) -> dict[str, NDArray[Any]]:
    """Returns the input `frame` of a detector, uint8[count, height, width, 3] of seeded noise."""
    return {"frame": np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)}


def make_observations(count: int) -> dict[str, NDArray[Any]]:
    """Returns the inputs of the policy network, `obs` float32[count, 22] and `h` float32[count, 16], seeded."""
    rng = np.random.default_rng(0)
    widths = {"obs": 22, "h": 16}
    return {name: rng.standard_normal((count, width), dtype=np.float32) for name, width in widths.items()}


def write_request(path: Path, model: str, inputs: Mapping[str, NDArray[Any]]) -> Path:
    """Writes a serialised request for one of our nodes; returns the file."""
    request = PredictRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, data_type=_DATA_TYPES[array.dtype], shape=array.shape, data=array.tobytes())
    path.write_bytes(request.SerializeToString())
    return path


def write_oip_request(path: Path, model: str, inputs: Mapping[str, NDArray[Any]]) -> Path:
    """Writes a serialised Open Inference request, such as Triton takes; returns the file."""
    path.write_bytes(write_infer_request(model, inputs))
    return path
