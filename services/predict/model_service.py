"""ModelService on the wire: protobuf messages in and out of `NodeModels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starling.predict.v1 import model_service_pb2 as pb
from starling.tensor.v1 import tensor_pb2

from engines import TensorConfig
from services.predict.models import ModelStatus, NodeModels


class ModelService:
    """Answers the four methods. Each takes and returns a message; errors carry status and reason words."""

    def __init__(self, models: NodeModels, *, grace_s: float) -> None:
        self._models = models
        self._grace_s = grace_s

    def list_models(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        """Returns every version in the repository."""
        return pb.ListModelsResponse(models=map(to_message, self._models.list(request.name)))

    def get_model(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        """Returns one version."""
        return pb.GetModelResponse(model=to_message(self._models.get(request.name, request.version)))

    def load_model(self, request: pb.LoadModelRequest) -> pb.LoadModelResponse:
        """Loads a version and returns when it serves."""
        return pb.LoadModelResponse(model=to_message(self._models.load(request.name, request.version)))

    def unload_model(self, request: pb.UnloadModelRequest) -> pb.UnloadModelResponse:
        """Drains and frees a version."""
        unloaded = self._models.unload(request.name, request.version, grace_s=self._grace_s)
        return pb.UnloadModelResponse(models=map(to_message, unloaded))


def to_message(status: ModelStatus) -> pb.Model:
    """Returns the wire form of one version's status."""
    message = pb.Model(
        name=status.name,
        version=status.version,
        state=pb.ModelState.Value(f"MODEL_STATE_{status.state.value}"),
        status_message=status.message,
        license=status.license,
    )
    if status.config is not None:
        message.inputs.extend(_spec(t, ()) for t in status.config.inputs)
        message.outputs.extend(_spec(t, status.labels.get(t.name, ())) for t in status.config.outputs)
        message.max_batch_size = status.config.max_batch_size
        message.batch_buckets.extend(status.config.buckets)
        message.stateful = bool(status.config.states)
    if status.native is not None:
        message.engine = status.native["engine"]
        message.engine_properties.update(status.native["engine_properties"])
        for bucket in status.native["buckets"]:
            timing = message.bucket_timings.add(batch_size=bucket["batch_size"])
            timing.p50.FromMicroseconds(bucket["p50_us"])
            timing.p99.FromMicroseconds(bucket["p99_us"])
            timing.expected_p50.FromMicroseconds(bucket["median_us"])
            timing.expected_p90.FromMicroseconds(bucket["high_us"])
        message.admission_margin.FromMicroseconds(status.native["margin_us"])
        if status.native["autopilot"] is not None:
            message.autopilot.CopyFrom(_autopilot(status.native["autopilot"]))
    return message


def _autopilot(native: Mapping[str, Any]) -> pb.Autopilot:
    message = pb.Autopilot(
        mode=pb.AutopilotMode.Value(f"AUTOPILOT_MODE_{native['mode'].upper()}"),
        slo_miss_rate=native["slo_miss_rate"],
        applied=_queue_setting(native["applied"], native["bucket_rows"]),
        advised=_queue_setting(native["advised"], native["bucket_rows"]),
        reason=native["reason"],
        message=native["text"],
        miss_rate=native["missed"] / max(1, native["demand"]),
        change_counts=native["changes"],
    )
    message.slo_p99.FromMicroseconds(native["slo_p99_us"])
    if native["answered"]:
        message.p99.FromMicroseconds(native["p99_us"])
    return message


def _queue_setting(setting: Mapping[str, int], bucket_rows: Sequence[int]) -> pb.QueueSetting:
    message = pb.QueueSetting(max_batch_size=bucket_rows[setting["largest_bucket"]], concurrency=setting["slots"])
    message.batch_delay.FromMicroseconds(setting["batch_delay_us"])
    if setting["bound_us"]:
        message.admission_bound.FromMicroseconds(setting["bound_us"])
    return message


def _spec(tensor: TensorConfig, labels: tuple[str, ...]) -> tensor_pb2.TensorSpec:
    return tensor_pb2.TensorSpec(
        name=tensor.name,
        data_type=tensor_pb2.DataType.Value(f"DATA_TYPE_{tensor.data_type}"),
        dims=tensor.dims,
        labels=labels,
    )
