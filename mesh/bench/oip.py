"""The Open Inference Protocol as benchmarks speak it: tensors travel raw, row-major and little-endian."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starling.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"

_DTYPES: Mapping[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4"), "UINT8": np.dtype("u1")}
_DATATYPES = {dtype: name for name, dtype in _DTYPES.items()}


def write_infer_request(model: str, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """Returns a serialised request for the newest version of a model.

    Args:
        model: name of the model.
        inputs: by name; FP32, INT32 or UINT8, the batch first.
    """
    request = ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request.SerializeToString()


def read_infer_response(data: bytes) -> dict[str, NDArray[Any]]:
    """Returns the outputs of a serialised response by name; each has raw contents."""
    response = ModelInferResponse.FromString(data)
    return {
        tensor.name: np.frombuffer(content, _DTYPES[tensor.datatype]).reshape(tensor.shape)
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
