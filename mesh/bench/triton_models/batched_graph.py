"""An ONNX graph compiled once per batch size, as our node compiles it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

# Those of our node, so that both sides run the same kernels on one thread.
_OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_NUM_THREADS": 1,
    "INFERENCE_PRECISION_HINT": "f32",
    "ENABLE_CPU_PINNING": False,
}


class BatchedGraph:
    """Runs rows of several requests as one batch, padded to the next size that was compiled.

    Args:
        graph: path of the ONNX file.
        batches: sizes to compile, ascending.
        inputs: dims of each input without the batch; -1 is any.
        outputs: names, in the order they are wanted.
    """

    def __init__(
        self, graph: str, batches: Sequence[int], inputs: Mapping[str, Sequence[int]], outputs: Sequence[str]
    ) -> None:
        core = ov.Core()
        self._inputs = list(inputs)
        self._outputs = list(outputs)
        self._requests: dict[int, ov.InferRequest] = {}
        self._arrays: dict[tuple[int, str], NDArray[Any]] = {}
        for batch in batches:
            model = core.read_model(graph)
            model.reshape({name: ov.PartialShape([batch, *dims]) for name, dims in inputs.items()})
            self._requests[batch] = core.compile_model(model, "CPU", _OPTIONS).create_infer_request()

    def run(self, requests: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
        """Returns the outputs of all rows; they are valid until the next run.

        Args:
            requests: the inputs of each request, in the order of the signature and of equal dims.
        """
        rows = sum(len(inputs[0]) for inputs in requests)
        batch = next(size for size in self._requests if size >= rows)
        for i, name in enumerate(self._inputs):
            parts = [inputs[i] for inputs in requests]
            np.concatenate(parts, out=self._array(batch, name, parts[0])[:rows])
        request = self._requests[batch]
        request.infer(share_outputs=True)
        return [request.get_tensor(name).data[:rows] for name in self._outputs]

    def _array(self, batch: int, name: str, like: NDArray[Any]) -> NDArray[Any]:
        """Returns the memory of an input, new where rows have other dims than before."""
        array = self._arrays.get((batch, name))
        if array is None or array.shape[1:] != like.shape[1:]:
            tensor = ov.Tensor(np.zeros((batch, *like.shape[1:]), like.dtype))
            self._requests[batch].set_tensor(name, tensor)
            array = self._arrays[batch, name] = tensor.data
        return array
