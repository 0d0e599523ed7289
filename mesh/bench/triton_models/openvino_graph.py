"""Answers with the outputs of an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb

from mesh.bench.triton_models.answers import read_inputs, split_rows
from mesh.bench.triton_models.batched_graph import BatchedGraph


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Compiles the graph."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        inputs = {tensor["name"]: [int(dim) for dim in tensor["dims"]] for tensor in config["input"]}
        batches = [int(word) for word in parameters["batches"].split()]
        self._inputs = list(inputs)
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._graph = BatchedGraph(parameters["graph"], batches, inputs, self._outputs)

    def execute(self, requests: Sequence[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        """Answers the requests of one batch in their order."""
        inputs = read_inputs(requests, self._inputs)
        found = self._graph.run(inputs)
        return split_rows(dict(zip(self._outputs, found, strict=True)), [len(arrays[0]) for arrays in inputs])
