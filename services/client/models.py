"""What a node says about its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from starling.predict.v1 import model_service_pb2 as pb
from starling.tensor.v1.tensor_pb2 import TensorSpec

from .tensors import get_type_name


class ModelState(StrEnum):
    """What a node does with a model version; `unknown` is a state newer than this client."""

    UNKNOWN = "unknown"
    AVAILABLE = "available"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    NOT_SERVING = "not_serving"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What a model expects or returns under one name.

    Attributes:
        name: name of the tensor.
        data_type: such as `FP32`.
        dims: dimensions without the batch; -1 means any size.
        labels: one per class or per value of the innermost dimension; may be empty.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the tensor as people write it: `frame UINT8[batch, ?, ?, 3]`."""
        dims = ", ".join(["batch", *("?" if size < 0 else str(size) for size in self.dims)])
        return f"{self.name} {self.data_type}[{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketTiming:
    """Engine time of one batch size, measured on the node.

    Attributes:
        batch_size: rows in the batch.
        p50_us, p99_us: median and 99th percentile since the model was loaded, in microseconds.
        expected_p50_us, expected_p90_us: median and 90th percentile that the node plans with now.
    """

    batch_size: int
    p50_us: int
    p99_us: int
    expected_p50_us: int
    expected_p90_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One version of one model on a node.

    Attributes:
        name, version: which one.
        state: what the node does with it.
        status_message: why it failed or does not serve; empty otherwise.
        engine: what runs it, such as `openvino_cpu`.
        inputs, outputs: its signature.
        max_batch_size: most rows in one request.
        batch_buckets: batch sizes that are compiled, ascending.
        timings: measured engine times, one per bucket; empty unless ready.
        license: SPDX identifier of the weights' licence; may be empty.
        engine_properties: how the runtime runs it.
        stateful: whether requests must name a sequence, because the node keeps state for it.
        admission_margin_us: what the node keeps free before the deadline of a request that has to wait, because
            answers come later than predicted; None unless ready.
    """

    name: str
    version: int
    state: ModelState
    status_message: str
    engine: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int
    batch_buckets: tuple[int, ...]
    timings: tuple[BucketTiming, ...]
    license: str
    engine_properties: Mapping[str, str]
    stateful: bool = False
    admission_margin_us: int | None = None

    @property
    def labels_by_output(self) -> Mapping[str, tuple[str, ...]]:
        """Returns the labels of the outputs that have any."""
        return {tensor.name: tensor.labels for tensor in self.outputs if tensor.labels}


def read_model(model: pb.Model) -> ModelInfo:
    """Returns the value of a `Model` message."""
    return ModelInfo(
        name=model.name,
        version=model.version,
        state=_STATES.get(model.state, ModelState.UNKNOWN),
        status_message=model.status_message,
        engine=model.engine,
        inputs=tuple(_read_tensor(spec) for spec in model.inputs),
        outputs=tuple(_read_tensor(spec) for spec in model.outputs),
        max_batch_size=model.max_batch_size,
        batch_buckets=tuple(model.batch_buckets),
        timings=tuple(
            BucketTiming(
                batch_size=timing.batch_size,
                p50_us=timing.p50.ToMicroseconds(),
                p99_us=timing.p99.ToMicroseconds(),
                expected_p50_us=timing.expected_p50.ToMicroseconds(),
                expected_p90_us=timing.expected_p90.ToMicroseconds(),
            )
            for timing in model.bucket_timings
        ),
        license=model.license,
        engine_properties=MappingProxyType(dict(model.engine_properties)),
        stateful=model.stateful,
        admission_margin_us=model.admission_margin.ToMicroseconds() if model.HasField("admission_margin") else None,
    )


def _read_tensor(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(
        name=spec.name,
        data_type=get_type_name(spec.data_type),
        dims=tuple(spec.dims),
        labels=tuple(spec.labels),
    )


_STATES = {
    pb.MODEL_STATE_AVAILABLE: ModelState.AVAILABLE,
    pb.MODEL_STATE_LOADING: ModelState.LOADING,
    pb.MODEL_STATE_READY: ModelState.READY,
    pb.MODEL_STATE_DRAINING: ModelState.DRAINING,
    pb.MODEL_STATE_FAILED: ModelState.FAILED,
    pb.MODEL_STATE_NOT_SERVING: ModelState.NOT_SERVING,
}
