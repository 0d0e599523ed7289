"""Fills in what a configuration leaves out from the model's file, as Triton does for ONNX and OpenVINO models."""

from collections.abc import Callable
from dataclasses import dataclass

from engines.config import TensorConfig

# Triton's own default for a model whose every tensor begins with a free dimension.
DEFAULT_MAX_BATCH_SIZE = 4


@dataclass(frozen=True, slots=True)
class Graph:
    """What a model file says of itself: `dims` of its tensors are whole shapes, -1 where any length will do."""

    filename: str
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]

    @property
    def is_batched(self) -> bool:
        """Returns whether every tensor begins with a free dimension, which is then the batch."""
        return all(tensor.dims[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))


# Returns the graph of a file of the highest version; the name is empty where the configuration names none.
ReadGraph = Callable[[str], Graph]


def complete_max_batch_size(graph: Graph) -> int:
    """Returns the largest batch of a model whose configuration describes no tensor; 0 when it has no batch.

    >>> from engines import DataType
    >>> free = TensorConfig("x", DataType.FP32, (-1, 3))
    >>> complete_max_batch_size(Graph("model.onnx", (free,), (free,)))
    4
    """
    return DEFAULT_MAX_BATCH_SIZE if graph.is_batched else 0


def complete_tensors(tensors: tuple[TensorConfig, ...], max_batch_size: int) -> tuple[TensorConfig, ...]:
    """Returns the tensors as a configuration describes them: without the batch where there is one."""
    if max_batch_size == 0:
        return tensors
    return tuple(TensorConfig(one.name, one.data_type, one.dims[1:]) for one in tensors)
