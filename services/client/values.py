"""The values that go in and come out of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .errors import StarlingError
from .fallback import Fallback, SimilarFrame
from .status import build_error

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One question to a model.

    Attributes:
        model: name as in the repository.
        inputs: every input of the model by name; dimension 0 is the batch. Arrays of `bytes` or `str`, which travels
            as UTF-8, are BYTES. Borrowed until sent.
        version: version to run; 0 means the highest one that is loaded.
        label: version to run by its label at the gateway; empty means none.
        outputs: names of the outputs wanted; empty means all.
        request_id: echoed in the answer; may be empty.
        stream_id: stream that it belongs to, such as one camera; may be empty.
        sequence: position in the stream.
        priority: 0 to 3; larger is more urgent.
        budget_s: seconds the answer may take from arrival at the node; None means: the deadline.
        cache: when the answer to an earlier frame of the stream will do; None means: never.
        allow: what else will do, best first, when the model cannot answer in time; at most 4.
        sequence_id: sequence whose state it goes on with, for a model that keeps state.
        sequence_start: whether it is the first step; the state begins with zeros.
        sequence_end: whether it is the last step; the state is freed with the answer.
    """

    model: str
    inputs: Mapping[str, Array]
    version: int = 0
    label: str = ""
    outputs: tuple[str, ...] = ()
    request_id: str = ""
    stream_id: str = ""
    sequence: int = 0
    priority: int = 0
    budget_s: float | None = None
    cache: SimilarFrame | None = None
    allow: tuple[Fallback, ...] = ()
    sequence_id: str = ""
    sequence_start: bool = False
    sequence_end: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """One answer.

    Attributes:
        model: model that answered.
        version: version that answered, >= 1.
        outputs: arrays by name, read-only views of the received bytes; BYTES as arrays of `bytes`.
        request_id: that of the request.
        node: node that answered.
        queue_us: arrival at the node to start of the engine, in microseconds.
        batch_wait_us: the part of it in which an engine was idle and the request waited for others to
            join its batch, in microseconds.
        compute_us: engine and post-processing of the whole batch, in microseconds.
        total_us: arrival at the node to its answer, in microseconds.
        predicted_us: what the node expected `total_us` to be when it admitted the request; 0 when it
            made no prediction.
        slack_us: time left to the deadline when the answer was ready, in microseconds; negative when it
            was late.
        batch_size: rows in the batch that the request was part of.
        round_trip_us: time of the whole call as seen from here, in microseconds.
        from_cache: whether the outputs were computed for an earlier request.
        similarity: with `from_cache`, of the two frames; 1.0 for equal inputs.
        staleness_ms: age of what the answer saw, in milliseconds; 0 for the request's own inputs.
        degraded_to: what stood in for the first choice: a model's name, `cached` or `last_value`; empty for none.
    """

    model: str
    version: int
    outputs: Mapping[str, Array]
    request_id: str = ""
    node: str = ""
    queue_us: int = 0
    batch_wait_us: int = 0
    compute_us: int = 0
    total_us: int = 0
    predicted_us: int = 0
    slack_us: int = 0
    batch_size: int = 0
    round_trip_us: int = 0
    from_cache: bool = False
    similarity: float = 0.0
    staleness_ms: int = 0
    degraded_to: str = ""

    def __getitem__(self, name: str) -> Array:
        """Returns one output.

        Raises:
            KeyError: names the outputs that there are.
        """
        if name not in self.outputs:
            raise KeyError(f"no output {name!r}; there are {', '.join(self.outputs) or 'none'}")
        return self.outputs[name]

    def __repr__(self) -> str:
        """Returns the answer as an operator reads it: shapes and times, not the arrays."""
        shapes = " ".join(f"{name}:{array.dtype}{list(array.shape)}" for name, array in self.outputs.items())
        return (
            f"<Prediction {self.model}:{self.version} node={self.node} {shapes} "
            f"batch={self.batch_size} queue={self.queue_us}us compute={self.compute_us}us "
            f"total={self.total_us}us predicted={self.predicted_us}us slack={self.slack_us}us "
            f"round_trip={self.round_trip_us}us"
            + (
                f" from_cache similarity={self.similarity:.3f} staleness={self.staleness_ms}ms"
                if self.from_cache
                else ""
            )
            + (f" degraded_to={self.degraded_to}" if self.degraded_to else "")
            + ">"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionError:
    """A refusal inside a stream; the stream goes on.

    Attributes:
        status: canonical gRPC status name.
        reason: stable word, such as `QUEUE_FULL`.
        message: what was found, what was expected, what to do.
        retry_delay_s: seconds to wait before trying again; None means: do not try this again.
        request_id: that of the request.
        metadata: further facts by name, such as `predicted_us`.
        round_trip_us: time from sending the request to the refusal, in microseconds.
    """

    status: str
    reason: str
    message: str
    retry_delay_s: float | None = None
    request_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    round_trip_us: int = 0

    def to_error(self) -> StarlingError:
        """Returns the error that a single call would have raised."""
        return build_error(
            self.status,
            self.message,
            reason=self.reason,
            metadata=dict(self.metadata),
            retry_delay_s=self.retry_delay_s,
        )
