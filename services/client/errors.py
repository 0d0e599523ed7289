"""What a call can raise: one tree rooted at `StarlingError`, each with the facts to act on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

_DIGITS_MAX = 18  # of a number that a peer gave; more would be centuries


class StarlingError(Exception):
    """A call was not answered.

    Attributes:
        status: canonical gRPC status name, such as `RESOURCE_EXHAUSTED`.
        reason: stable word for programs, such as `QUEUE_FULL`; empty when the peer gave none.
        message: what was found, what was expected, what to do.
        metadata: further facts by name.
        retry_delay_s: seconds to wait before trying again; None means: do not try this again.
    """

    status: str = "UNKNOWN"
    reason: str = ""
    default_reason: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
        status: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.metadata = MappingProxyType(dict(metadata or {}))
        self.retry_delay_s = retry_delay_s
        if status is not None:
            self.status = status

    def __repr__(self) -> str:
        """Returns the error as an operator reads it in a log."""
        retry = "" if self.retry_delay_s is None else f" retry in {self.retry_delay_s:g} s"
        word = self.reason or self.status
        return f"<{type(self).__name__} {word}{retry}: {self.message}>"

    def __reduce__(self) -> tuple[object, ...]:
        """Returns what pickle needs: errors cross process boundaries in worker pools."""
        state = {**self.__dict__, "metadata": dict(self.metadata)}
        return (type(self), (self.message,), state)

    def __setstate__(self, state: Mapping[str, object] | None) -> None:
        """Restores what `__reduce__` gave."""
        self.__dict__.update(state or {})
        self.metadata = MappingProxyType(dict(self.metadata))


class InvalidInput(StarlingError):
    """The request does not fit the model or the protocol; sending it again does not help."""

    status = "INVALID_ARGUMENT"
    default_reason = "INVALID_INPUT"


class SequenceNotFound(InvalidInput):
    """The node keeps no state for this sequence: it ended, was idle for too long, or is another node's.

    Send its first step again, with `sequence_start`.
    """

    default_reason = "SEQUENCE_NOT_FOUND"


class NotFound(StarlingError):
    """Something that the request names does not exist."""

    status = "NOT_FOUND"


class ModelNotFound(NotFound):
    """The node has no such model or version."""

    default_reason = "MODEL_NOT_FOUND"


class FailedPrecondition(StarlingError):
    """The node cannot do this in its present state, such as load a corrupt model."""

    status = "FAILED_PRECONDITION"


class ModelNotReady(FailedPrecondition):
    """The model exists and is not loaded."""

    default_reason = "MODEL_NOT_READY"


class ResourceExhausted(StarlingError):
    """There is no room for the request now: a queue, a quota or a size limit."""

    status = "RESOURCE_EXHAUSTED"


class QueueFull(ResourceExhausted):
    """The model's queue is full; `retry_delay_s` says when to come back."""

    default_reason = "QUEUE_FULL"


class DeadlineUnmeetable(ResourceExhausted):
    """The node knows that the answer would come too late, and said so instead of computing it.

    `retry_delay_s` says when the same time would be enough, if nobody else asks meanwhile.
    """

    default_reason = "DEADLINE_UNMEETABLE"

    @property
    def needed_s(self) -> float | None:
        """Returns the seconds from arrival that an answer would have taken, at least; None when the node gave none."""
        for fact in ("predicted_us", "left_us"):  # a request given up in the queue needs more than it had left
            text = self.metadata.get(fact, "")
            if text.isdecimal() and text.isascii():
                return int(text[:_DIGITS_MAX]) / 1e6
        return None


class SequencesFull(ResourceExhausted):
    """The node keeps the state of as many sequences as it may; `retry_delay_s` says when one may be forgotten."""

    default_reason = "SEQUENCES_FULL"


class Superseded(StarlingError):
    """A newer frame of the same stream took its place; wait for the answer to that one.

    Never tried again: the older frame would only take the place of a newer one.
    """

    status = "ABORTED"
    default_reason = "SUPERSEDED"


class DeadlineExceeded(StarlingError):
    """The answer did not come in time; it may still have been computed."""

    status = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_PASSED"


class Unavailable(StarlingError):
    """Nobody answers at the target now."""

    status = "UNAVAILABLE"


class Unauthenticated(StarlingError):
    """The gateway does not know who calls: the token is missing, over, or not for it."""

    status = "UNAUTHENTICATED"


class PermissionDenied(StarlingError):
    """The gateway knows who calls, and that they may not do this."""

    status = "PERMISSION_DENIED"


class Draining(Unavailable):
    """The node finishes its work and takes no more; another one will."""

    default_reason = "DRAINING"


class Cancelled(StarlingError):
    """The call was cancelled, here or on the way. Not a failure of the model."""

    status = "CANCELLED"
    default_reason = "CANCELLED"


class InternalError(StarlingError):
    """The mesh failed, not the request; the node's log has the details."""

    status = "INTERNAL"


class MalformedReply(InternalError):
    """The peer's answer breaks the protocol; no part of it was used."""

    default_reason = "MALFORMED_REPLY"
