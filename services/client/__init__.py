"""The client for agents: NumPy arrays in, NumPy arrays or a typed error out.

Needs only grpcio, protobuf, googleapis-common-protos and numpy. `call` and `draw`, which serve the
command line, also need OpenCV and rich, and are not imported here.
"""

from .aio import AsyncClient
from .channel import CHANNEL_OPTIONS
from .client import Client
from .codec import MESSAGE_BYTES_MAX
from .errors import (
    Cancelled,
    DeadlineExceeded,
    DeadlineUnmeetable,
    Draining,
    FailedPrecondition,
    InternalError,
    InvalidInput,
    MalformedReply,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    PermissionDenied,
    QueueFull,
    ResourceExhausted,
    SequenceNotFound,
    SequencesFull,
    StarlingError,
    Superseded,
    Unauthenticated,
    Unavailable,
)
from .fallback import Fallback, LastValue, SimilarFrame
from .models import BucketTiming, ModelInfo, ModelState, TensorInfo
from .retry import RetryPolicy
from .tls import Tls
from .values import Array, Prediction, PredictionError, Request

__all__ = [
    "CHANNEL_OPTIONS",
    "MESSAGE_BYTES_MAX",
    "Array",
    "AsyncClient",
    "BucketTiming",
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "DeadlineUnmeetable",
    "Draining",
    "FailedPrecondition",
    "Fallback",
    "InternalError",
    "InvalidInput",
    "LastValue",
    "MalformedReply",
    "ModelInfo",
    "ModelNotFound",
    "ModelNotReady",
    "ModelState",
    "NotFound",
    "PermissionDenied",
    "Prediction",
    "PredictionError",
    "QueueFull",
    "Request",
    "ResourceExhausted",
    "RetryPolicy",
    "SequenceNotFound",
    "SequencesFull",
    "SimilarFrame",
    "StarlingError",
    "Superseded",
    "TensorInfo",
    "Tls",
    "Unauthenticated",
    "Unavailable",
]
