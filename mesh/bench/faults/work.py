"""The model that is asked: it takes a set time and computes nothing, so that the machine's cores do not decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from services.client import Request

MODEL = "work"
_FLOATS = 4
_QUEUE_MAX = 64


def write_work(folder: Path, delay_ms: int, workers: int) -> Path:
    """Writes a repository whose model answers after `delay_ms`, `workers` at a time; returns it."""
    repository = folder / "models"
    (repository / MODEL / "1").mkdir(parents=True)
    (repository / MODEL / "config.pbtxt").write_text(
        f"""name: "{MODEL}"
backend: "identity"
max_batch_size: 1
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {_FLOATS} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {_FLOATS} ] }} ]
instance_group [ {{ count: {workers} }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: {_QUEUE_MAX} }} }}
parameters {{ key: "starling.identity_delay_us" value {{ string_value: "{delay_ms * 1000}" }} }}
"""
    )
    return repository


def build_request() -> Request:
    """Returns what agents ask."""
    return Request(model=MODEL, inputs={"x": np.zeros((1, _FLOATS), np.float32)})
