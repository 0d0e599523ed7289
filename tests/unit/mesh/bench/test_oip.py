"""What benchmarks send to servers of others, and read of their answers."""

from __future__ import annotations

import numpy as np
import pytest
from starling.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse

from mesh.bench.oip import read_infer_response, write_infer_request


def test_a_request_names_its_tensors_and_carries_them_raw() -> None:
    inputs = {"x": np.array([[1, -2]], np.float32), "frame": np.zeros((1, 2, 2, 3), np.uint8)}
    request = ModelInferRequest.FromString(write_infer_request("m", inputs))
    described = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs]
    assert (request.model_name, described) == ("m", [("x", "FP32", [1, 2]), ("frame", "UINT8", [1, 2, 2, 3])])
    assert list(request.raw_input_contents) == [bytes.fromhex("0000803f000000c0"), bytes(12)]


def test_a_response_gives_its_outputs_and_one_without_contents_is_refused() -> None:
    response = ModelInferResponse(raw_output_contents=[np.array([1, 2, -1], "<i4").tobytes()])
    response.outputs.add(name="y", datatype="INT32", shape=[3, 1])
    (values,) = read_infer_response(response.SerializeToString()).values()
    assert (values.dtype, values.tolist()) == (np.dtype(np.int32), [[1], [2], [-1]])
    response.outputs.add(name="z", datatype="INT32", shape=[1])
    with pytest.raises(ValueError, match="shorter"):
        read_infer_response(response.SerializeToString())
