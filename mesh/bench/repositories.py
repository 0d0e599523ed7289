"""Model repositories of benchmarks: models that compute nothing, and copies of published ones."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pace:
    """How a model answers that waits instead of computing, so that the machine's cores do not decide.

    Attributes:
        delay_ms: time of each request.
        workers: requests at a time.
        queue_max: how many more may wait.
    """

    delay_ms: int
    workers: int
    queue_max: int


def write_identity(
    repository: Path, model: str, floats: int, *, rows_max: int = 1, version: int = 1, pace: Pace | None = None
) -> Path:
    """Adds a model that answers its input `x`, so many floats, as `y`: at once or at a pace; returns the repository."""
    (repository / model / str(version)).mkdir(parents=True)
    config = f"""name: "{model}"
backend: "identity"
max_batch_size: {rows_max}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {floats} ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {floats} ] }} ]
"""
    if pace is not None:
        config += f"""instance_group [ {{ count: {pace.workers} }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: {pace.queue_max} }} }}
parameters {{ key: "starling.identity_delay_us" value {{ string_value: "{pace.delay_ms * 1000}" }} }}
"""
    (repository / model / "config.pbtxt").write_text(config)
    return repository


def copy_model(source: Path, model: str, folder: Path, parameters: Mapping[str, str]) -> Path:
    """Copies a model of a repository into a new one at `folder`, with some `starling.*` parameters set.

    Args:
        source: the repository to copy from.
        model: name of the model.
        folder: the new repository; made here.
        parameters: full key to value; a line of the original with the same key is replaced.

    Returns:
        The new repository.
    """
    target = folder / model
    shutil.copytree(source / model, target)
    config = target / "config.pbtxt"
    lines = config.read_text().splitlines()
    kept = [line for line in lines if not any(f'key: "{key}"' in line for key in parameters)]
    added = [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    config.write_text("\n".join([*kept, *added]) + "\n")
    return folder
