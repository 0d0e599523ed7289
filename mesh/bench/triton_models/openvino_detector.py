"""Answers a frame with its best boxes by score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import triton_python_backend_utils as pb

from mesh.bench.triton_models.answers import read_inputs, split_rows
from mesh.bench.triton_models.batched_graph import BatchedGraph


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Compiles the graph."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        (frame,) = config["input"]
        batches = [int(word) for word in parameters["batches"].split()]
        dims = [int(dim) for dim in frame["dims"]]
        self._frame = frame["name"]
        self._detections = int(parameters["detections"])
        self._graph = BatchedGraph(parameters["graph"], batches, {self._frame: dims}, ["boxes", "scores"])

    def execute(self, requests: Sequence[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        """Answers the requests of one batch in their order."""
        inputs = read_inputs(requests, [self._frame])
        boxes, scores = self._graph.run(inputs)
        best = scores.max(axis=2)
        chosen = np.argpartition(-best, self._detections, axis=1)[:, : self._detections]
        of_chosen = np.take_along_axis(scores, chosen[..., None], axis=1)
        outputs = {
            "boxes": np.take_along_axis(boxes, chosen[..., None], axis=1),
            "scores": of_chosen.max(axis=2),
            "classes": of_chosen.argmax(axis=2).astype(np.int32),
        }
        return split_rows(outputs, [len(arrays[0]) for arrays in inputs])
