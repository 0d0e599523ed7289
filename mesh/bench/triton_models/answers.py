"""Between Triton's requests and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb
from numpy.typing import NDArray


def read_inputs(requests: Sequence[pb.InferenceRequest], names: Sequence[str]) -> list[list[NDArray[Any]]]:
    """Returns the inputs of each request in the order of `names`; views of what the request holds."""
    return [[pb.get_input_tensor_by_name(request, name).as_numpy() for name in names] for request in requests]


def split_rows(outputs: Mapping[str, NDArray[Any]], rows: Sequence[int]) -> list[pb.InferenceResponse]:
    """Returns one response per request.

    Args:
        outputs: of the whole batch.
        rows: of each request, in the order of the batch.
    """
    responses, at = [], 0
    for count in rows:
        tensors = [pb.Tensor(name, values[at : at + count]) for name, values in outputs.items()]
        responses.append(pb.InferenceResponse(tensors))
        at += count
    return responses
