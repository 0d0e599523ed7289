"""Engines run models: the error tree, the model repository and its configuration, quantisation and assets.

The native core is `engines._core`; only the files that run models import it, so that everything else here works
before it is built.
"""

from engines.errors import (
    CorruptModel,
    DeadlinePassed,
    Draining,
    EngineError,
    EngineFailed,
    InvalidConfig,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
)

__all__ = [
    "CorruptModel",
    "DeadlinePassed",
    "Draining",
    "EngineError",
    "EngineFailed",
    "InvalidConfig",
    "InvalidInput",
    "ModelNotFound",
    "ModelNotReady",
    "QueueFull",
]
