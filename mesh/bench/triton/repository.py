"""A model repository for Triton's Python backend: configurations and the code that runs inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class TritonTensor:
    """One input or output.

    Attributes:
        data_type: as in a configuration, such as `TYPE_FP32`.
        dims: without the batch; -1 is any.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TritonModel:
    """A model as Triton's Python backend serves it, on the CPU, in one process, with dynamic batching.

    Attributes:
        code: module of `mesh.bench.triton_models` that runs it.
        max_batch_size: rows of one execution, at most.
        queue_delay_us: how long a row waits for others.
        parameters: what the code reads.
    """

    name: str
    code: str
    inputs: tuple[TritonTensor, ...]
    outputs: tuple[TritonTensor, ...]
    max_batch_size: int
    queue_delay_us: int
    parameters: Mapping[str, str] = field(default_factory=dict)


def config_text(model: TritonModel) -> str:
    """Returns the model's `config.pbtxt`."""
    lines = [
        f'name: "{model.name}"',
        'backend: "python"',
        f"max_batch_size: {model.max_batch_size}",
        *[f"input [ {_tensor_text(tensor)} ]" for tensor in model.inputs],
        *[f"output [ {_tensor_text(tensor)} ]" for tensor in model.outputs],
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        f"dynamic_batching {{ max_queue_delay_microseconds: {model.queue_delay_us} }}",
        *[_parameter_text(key, value) for key, value in model.parameters.items()],
    ]
    return "\n".join(lines) + "\n"


def write_triton_repository(folder: Path, models: Sequence[TritonModel], packages: Path) -> Path:
    """Writes the models into a new folder; returns it.

    Args:
        folder: does not exist yet.
        models: names are unique.
        packages: folder that the code imports NumPy and OpenVINO from.
    """
    for model in models:
        version = folder / model.name / "1"
        version.mkdir(parents=True)
        (folder / model.name / "config.pbtxt").write_text(config_text(model), "utf-8")
        (version / "model.py").write_text(_entry_text(model.code, packages), "utf-8")
    return folder


def _entry_text(code: str, packages: Path) -> str:
    # The backend runs Python isolated: no PYTHONPATH, and no packages but the interpreter's own.
    lines = (
        "import sys",
        f"sys.path.insert(0, {str(packages)!r})",
        f"sys.path.append({str(_ROOT)!r})",
        f"from mesh.bench.triton_models.{code} import TritonPythonModel",
    )
    return "\n".join(lines) + "\n"


def _tensor_text(tensor: TritonTensor) -> str:
    dims = ", ".join(map(str, tensor.dims))
    return f'{{ name: "{tensor.name}" data_type: {tensor.data_type} dims: [ {dims} ] }}'


def _parameter_text(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
