"""Engines run models: the error tree, the model repository and its configuration, quantisation and assets.

The native core is `engines._core`; only the files that run models import it, so that everything else here works
before it is built.
"""

from engines.config import Autopilot, DataType, Discipline, ModelConfig, Postprocess, StateConfig, TensorConfig
from engines.config_render import parameters_of, render_config
from engines.config_text import parse_config, read_config
from engines.errors import (
    AlreadyExists,
    CorruptModel,
    DeadlinePassed,
    DeadlineUnmeetable,
    DiskFull,
    Draining,
    EngineError,
    EngineFailed,
    InvalidConfig,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    SequenceNotFound,
    SequencesFull,
    Superseded,
)
from engines.manifest import Manifest
from engines.repository import Entry, ModelVersion, Release, Repository

__all__ = [
    "AlreadyExists",
    "Autopilot",
    "CorruptModel",
    "DataType",
    "DeadlinePassed",
    "DeadlineUnmeetable",
    "Discipline",
    "DiskFull",
    "Draining",
    "EngineError",
    "EngineFailed",
    "Entry",
    "InvalidConfig",
    "InvalidInput",
    "Manifest",
    "ModelConfig",
    "ModelNotFound",
    "ModelNotReady",
    "ModelVersion",
    "Postprocess",
    "QueueFull",
    "Release",
    "Repository",
    "SequenceNotFound",
    "SequencesFull",
    "StateConfig",
    "Superseded",
    "TensorConfig",
    "parameters_of",
    "parse_config",
    "read_config",
    "render_config",
]
