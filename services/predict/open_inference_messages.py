"""A loaded model as messages of the Open Inference Protocol. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starling.inference import model_config_pb2 as config_pb
from starling.inference import open_inference_pb2 as pb

from engines import ModelConfig, ModelVersion, TensorConfig, parameters_of
from services.predict.models import LoadedModel


def metadata_message(model: LoadedModel, versions: Sequence[int]) -> pb.ModelMetadataResponse:
    """Returns the tensors of a model, shapes with the batch as -1 where there is one."""
    config = model.config
    return pb.ModelMetadataResponse(
        name=config.name,
        versions=[str(version) for version in versions],
        platform=model.native["engine"],
        inputs=[_metadata(tensor, batched=config.batched) for tensor in config.inputs],
        outputs=[_metadata(tensor, batched=config.batched) for tensor in config.outputs],
    )


def model_config_message(found: ModelVersion) -> config_pb.ModelConfig:
    """Returns a configuration as its author could have written it, with what was left out filled in.

    `dims` are without the batch, and a model whose requests are never put together has no `dynamic_batching`: that is
    how clients tell.
    """
    config = found.config
    message = config_pb.ModelConfig(
        name=config.name,
        backend=config.backend,
        max_batch_size=config.max_batch_size,
        version_policy=_version_policy(config),
        input=[
            config_pb.ModelInput(
                name=tensor.name,
                data_type=config_pb.DataType.Value(tensor.data_type.name_in_file),
                format=config_pb.ModelInput.Format.Value(tensor.format or "FORMAT_NONE"),
                dims=tensor.dims,
            )
            for tensor in config.inputs
        ],
        output=[
            config_pb.ModelOutput(
                name=tensor.name,
                data_type=config_pb.DataType.Value(tensor.data_type.name_in_file),
                dims=tensor.dims,
                label_filename=tensor.label_filename,
            )
            for tensor in config.outputs
        ],
        instance_group=[
            config_pb.ModelInstanceGroup(
                name=f"{config.name}_0", kind=config_pb.ModelInstanceGroup.KIND_CPU, count=config.instance_count
            )
        ],
        default_model_filename="" if config.backend == "identity" else found.model_path.name,
        parameters={key: config_pb.ModelParameter(string_value=value) for key, value in parameters_of(config).items()},
        model_transaction_policy=config_pb.ModelTransactionPolicy(decoupled=False),
    )
    if config.response_cache_ms:
        message.response_cache.enable = True
    if config.states:
        message.sequence_batching.CopyFrom(_sequence_batching(config))
    elif config.max_batch_size > 1:
        message.dynamic_batching.CopyFrom(_dynamic_batching(config))
    return message


def statistics_message(model: LoadedModel) -> pb.ModelStatistics:
    """Returns what a version has done since it was loaded; every counter only grows.

    The copy into the batch counts as `compute_infer`; `compute_output` is what is left of an answer's time after the
    queue and the engine. `cache_hit` is looking up, `cache_miss` that and keeping the answer, as Triton counts them.
    """
    native = model.native
    finished: Mapping[str, int] = native["finished"]
    answered = finished["OK"]
    failed = sum(finished.values()) - answered
    total_us, queue_us, compute_us = (native[name]["sum_us"] for name in ("total", "queue", "compute"))
    cached = native["cache_hits"]
    return pb.ModelStatistics(
        name=model.found.name,
        version=str(model.found.version),
        last_inference=native["last_inference_ms"],
        inference_count=native["rows"],
        execution_count=native["executions"],
        inference_stats=pb.InferStatistics(
            success=_duration(answered + cached, total_us + native["cache_hit_us"]),
            fail=_duration(failed, native["failed_us"]),
            queue=_duration(answered, queue_us),
            compute_input=_duration(answered, 0),
            compute_infer=_duration(answered, compute_us),
            compute_output=_duration(answered, max(0, total_us - queue_us - compute_us)),
            cache_hit=pb.StatisticDuration(count=cached, ns=native["cache_hit_ns"]),
            cache_miss=pb.StatisticDuration(count=native["cache_misses"], ns=native["cache_miss_ns"]),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=bucket["batch_size"],
                compute_input=_duration(bucket["served"], 0),
                compute_infer=_duration(bucket["served"], bucket["served_us"]),
                compute_output=_duration(bucket["served"], 0),
            )
            for bucket in native["buckets"]
            if bucket["served"]
        ],
    )


def _duration(count: int, us: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=us * 1000)


def _metadata(tensor: TensorConfig, *, batched: bool) -> Any:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=str(tensor.data_type), shape=(-1, *tensor.dims) if batched else tensor.dims
    )


def _version_policy(config: ModelConfig) -> config_pb.ModelVersionPolicy:
    policy = config_pb.ModelVersionPolicy()
    if config.version_numbers:
        policy.specific.versions.extend(config.version_numbers)
    elif config.version_count == 0:
        policy.all.SetInParent()
    else:
        policy.latest.num_versions = config.version_count
    return policy


def _sequence_batching(config: ModelConfig) -> config_pb.ModelSequenceBatching:
    message = config_pb.ModelSequenceBatching(max_sequence_idle_microseconds=config.sequence_idle_us)
    message.oldest.max_candidate_sequences = config.sequences_max
    message.oldest.preferred_batch_size.extend(config.preferred_batch_sizes)
    message.oldest.max_queue_delay_microseconds = config.batch_delay_us
    for state in config.states:
        kind = config_pb.DataType.Value(state.data_type.name_in_file)
        message.state.add(
            input_name=state.input_name, output_name=state.output_name, data_type=kind, dims=state.dims
        ).initial_state.add(data_type=kind, dims=state.dims, zero_data=True, name="zeros")
    return message


def _dynamic_batching(config: ModelConfig) -> config_pb.ModelDynamicBatching:
    return config_pb.ModelDynamicBatching(
        preferred_batch_size=config.preferred_batch_sizes,
        max_queue_delay_microseconds=config.batch_delay_us,
        priority_levels=config.priority_levels,
        default_priority_level=config.default_priority_level,
        default_queue_policy=config_pb.ModelQueuePolicy(
            timeout_action=config_pb.ModelQueuePolicy.REJECT,
            default_timeout_microseconds=config.default_timeout_us,
            allow_timeout_override=True,
            max_queue_size=config.queue_max,
        ),
    )
