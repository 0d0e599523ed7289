"""The requests that benchmarks send, and the repository of the model that only echoes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from starling.predict.v1.predict_service_pb2 import PredictRequest
from starling.tensor.v1.tensor_pb2 import DATA_TYPE_FP32, DATA_TYPE_UINT8

ECHO_FLOATS = 64
_ECHO_CONFIG = f"""name: "echo"
backend: "identity"
max_batch_size: 16
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {ECHO_FLOATS} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {ECHO_FLOATS} ] }} ]
"""


def write_echo_repository(folder: Path) -> Path:
    """Writes a repository whose model `echo` returns its 64 floats; returns it."""
    repository = folder / "repository"
    (repository / "echo" / "1").mkdir(parents=True)
    (repository / "echo" / "config.pbtxt").write_text(_ECHO_CONFIG)
    return repository


def write_echo_request(folder: Path) -> Path:
    """Writes a serialised request for `echo`; returns the file."""
    request = PredictRequest(model_name="echo")
    values = np.arange(ECHO_FLOATS, dtype="<f4").tobytes()
    request.inputs.add(name="x", data_type=DATA_TYPE_FP32, shape=[1, ECHO_FLOATS], data=values)
    return _write(folder / "echo.request", request)


def write_frame_request(folder: Path, model: str, height: int, width: int) -> Path:
    """Writes a request with one frame of seeded noise; a detector's work does not depend on the picture."""
    frame = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    request = PredictRequest(model_name=model)
    request.inputs.add(name="frame", data_type=DATA_TYPE_UINT8, shape=frame.shape, data=frame.tobytes())
    return _write(folder / f"{model}.request", request)


def _write(path: Path, request: PredictRequest) -> Path:
    path.write_bytes(request.SerializeToString())
    return path
