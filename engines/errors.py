"""The errors that engines raise, each with the two words that say how a caller of a service sees it.

`status` is a canonical gRPC status name as a plain string, so nothing here imports gRPC; `reason` is stable and is
what a client branches on. The text of every error says what was found, what was expected, and what to do. Facts
(a model's name, a line number) are keyword arguments and become attributes of the error.
"""

from typing import ClassVar


class EngineError(Exception):
    """Root of the tree; raised itself only for a failure that has no better name.

    Args:
        message: what was found, what was expected, what to do; shown to people.
        facts: machine-readable facts, for instance `model="nanodet", version=3`; each becomes an attribute.
    """

    status: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "ENGINE_FAILED"

    def __init__(self, message: str, /, **facts: str | float) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    @property
    def facts(self) -> dict[str, str | float]:
        """Returns a copy of the facts this error carries, by name; notes are none."""
        return {name: fact for name, fact in vars(self).items() if not name.startswith("_")}


class InvalidInput(EngineError):
    """The request does not fit the model's signature, or an argument is out of its range."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"


class ModelNotFound(EngineError):
    """No model of this name, or no such version of it."""

    status = "NOT_FOUND"
    reason = "MODEL_NOT_FOUND"


class ModelNotReady(EngineError):
    """The version exists but is not loaded, or has just been unloaded."""

    status = "FAILED_PRECONDITION"
    reason = "MODEL_NOT_READY"


class CorruptModel(EngineError):
    """A file of the version is missing, is not what its manifest says, or cannot be compiled."""

    status = "FAILED_PRECONDITION"
    reason = "CORRUPT_MODEL"


class InvalidConfig(EngineError):
    """A `config.pbtxt` is unreadable, has unknown fields, or contradicts itself or its folder.

    Facts: `path`, and `line` and `field` where one line is to blame.
    """

    status = "FAILED_PRECONDITION"
    reason = "INVALID_CONFIG"


class QueueFull(EngineError):
    """The model's queue holds as many requests, or as many bytes, as it may.

    Attributes:
        retry_delay_ms: time after which a place is likely to be free, at least 1.
    """

    status = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"

    retry_delay_ms: int

    def __init__(self, message: str, /, retry_delay_ms: int = 1, **facts: str | float) -> None:
        super().__init__(message, retry_delay_ms=max(1, retry_delay_ms), **facts)


class DiskFull(EngineError):
    """A file does not fit on its disk. Facts: `needed_bytes`, `free_bytes`."""

    status = "RESOURCE_EXHAUSTED"
    reason = "DISK_FULL"


class DeadlineUnmeetable(EngineError):
    """The answer is predicted to come after the deadline, so nothing was computed.

    Attributes:
        retry_delay_ms: time after which the same budget is likely to be enough, at least 1.
    """

    status = "RESOURCE_EXHAUSTED"
    reason = "DEADLINE_UNMEETABLE"

    retry_delay_ms: int

    def __init__(self, message: str, /, retry_delay_ms: int = 1, **facts: str | float) -> None:
        super().__init__(message, retry_delay_ms=max(1, retry_delay_ms), **facts)


class SequenceNotFound(EngineError):
    """The model keeps no state under this sequence_id: never started here, ended, idle for too long, or lost."""

    status = "INVALID_ARGUMENT"
    reason = "SEQUENCE_NOT_FOUND"


class SequencesFull(EngineError):
    """The model keeps the state of as many sequences as it may.

    Attributes:
        retry_delay_ms: time after which the longest idle one will be forgotten, at least 1.
    """

    status = "RESOURCE_EXHAUSTED"
    reason = "SEQUENCES_FULL"

    retry_delay_ms: int

    def __init__(self, message: str, /, retry_delay_ms: int = 1, **facts: str | float) -> None:
        super().__init__(message, retry_delay_ms=max(1, retry_delay_ms), **facts)


class Superseded(EngineError):
    """A newer frame of the same stream took this one's place in the queue."""

    status = "ABORTED"
    reason = "SUPERSEDED"


class AlreadyExists(EngineError):
    """The name is taken, such as that of a region of shared memory."""

    status = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class DeadlinePassed(EngineError):
    """The request's deadline passed before its answer; the engine may not have run it."""

    status = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_PASSED"


class EngineFailed(EngineError):
    """The runtime failed while it ran a batch that the signature allows."""

    status = "INTERNAL"
    reason = "ENGINE_FAILED"


class Draining(EngineError):
    """The process is shutting down: it answers what it has admitted and admits nothing new."""

    status = "UNAVAILABLE"
    reason = "DRAINING"
