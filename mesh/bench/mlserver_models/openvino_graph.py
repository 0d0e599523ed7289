"""Answers with the outputs of an ONNX graph, compiled as our node compiles it."""

from __future__ import annotations

import openvino as ov
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

# Those of our node, so that both sides run the same kernels on one thread.
_OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}


class OpenvinoGraph(MLModel):  # type: ignore[misc]  # it is not in our environment
    """What MLServer loads."""

    async def load(self) -> bool:
        """Compiles the graph."""
        core = ov.Core()
        model = core.read_model(self.settings.parameters.uri)
        # One row: MLServer puts no requests together by default, and batching gains these graphs nothing on a CPU.
        for port in model.inputs:
            model.reshape({port.get_any_name(): ov.PartialShape([1, *list(port.partial_shape)[1:]])})
        self._graph = core.compile_model(model, "CPU", _OPTIONS)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers one request."""
        found = self._graph({one.name: NumpyCodec.decode_input(one) for one in payload.inputs})
        outputs = [NumpyCodec.encode_output(port.get_any_name(), values) for port, values in found.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)
