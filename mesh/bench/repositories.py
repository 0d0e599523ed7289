"""Copies of published models with other parameters."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


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
