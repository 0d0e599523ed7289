"""Writes a model's configuration as `config.pbtxt`."""

from engines.config import ModelConfig, Postprocess, TensorConfig
from engines.textformat import quote


def render_config(config: ModelConfig) -> str:
    """Returns the text that `parse_config` reads back as `config`."""
    lines = [
        f"name: {quote(config.name)}",
        f"backend: {quote(config.backend)}",
        f"max_batch_size: {config.max_batch_size}",
        *_render_tensors("input", config.inputs),
        *_render_tensors("output", config.outputs),
        f"instance_group [ {{ count: {config.instance_count} kind: KIND_CPU }} ]",
        *(_render_sequences(config) if config.states else _render_batching(config)),
        _render_versions(config),
    ]
    if config.model_filename:
        lines.append(f"default_model_filename: {quote(config.model_filename)}")
    for key, value in parameters_of(config).items():
        lines.append(f"parameters {{ key: {quote(key)} value {{ string_value: {quote(value)} }} }}")
    return "\n".join(lines) + "\n"


def parameters_of(config: ModelConfig) -> dict[str, str]:
    """Returns our own settings of a model as they stand in the `parameters` of its configuration."""
    parameters = {
        "threads": str(config.threads),
        "queue_bytes_max": str(config.queue_bytes_max),
        "response_cache_ms": str(config.response_cache_ms),
        "discipline": config.discipline.value,
        "watchdog_ms": str(config.watchdog_ms),
    }
    if config.slo_p99_ms:
        parameters["slo_p99_ms"] = repr(config.slo_p99_ms)
        parameters["slo_miss_rate"] = repr(config.slo_miss_rate)
        parameters["autopilot"] = config.autopilot.value
    if config.postprocess is not Postprocess.NONE:
        parameters["postprocess"] = config.postprocess.value
        parameters["nms_score_threshold"] = repr(config.nms_score_threshold)
        parameters["nms_iou_threshold"] = repr(config.nms_iou_threshold)
    if config.identity_delay_us:
        parameters["identity_delay_us"] = str(config.identity_delay_us)
    if config.identity_fail_every:
        parameters["identity_fail_every"] = str(config.identity_fail_every)
    if config.agent_affinity:
        parameters["agent_affinity"] = "true"
    return {f"starling.{key}": value for key, value in parameters.items()}


def _render_versions(config: ModelConfig) -> str:
    if config.version_numbers:
        return f"version_policy {{ specific {{ versions: [ {', '.join(map(str, config.version_numbers))} ] }} }}"
    if config.version_count == 0:
        return "version_policy { all { } }"
    return f"version_policy {{ latest {{ num_versions: {config.version_count} }} }}"


def _render_priorities(config: ModelConfig) -> list[str]:
    if not config.priority_levels:
        return []
    return [
        f"  priority_levels: {config.priority_levels}",
        f"  default_priority_level: {config.default_priority_level}",
    ]


def _render_batching(config: ModelConfig) -> list[str]:
    return [
        "dynamic_batching {",
        f"  preferred_batch_size: [ {', '.join(map(str, config.preferred_batch_sizes))} ]",
        f"  max_queue_delay_microseconds: {config.batch_delay_us}",
        *_render_priorities(config),
        "  default_queue_policy {",
        f"    max_queue_size: {config.queue_max}",
        f"    default_timeout_microseconds: {config.default_timeout_us}",
        "  }",
        "}",
    ]


def _render_sequences(config: ModelConfig) -> list[str]:
    lines = [
        "sequence_batching {",
        f"  max_sequence_idle_microseconds: {config.sequence_idle_us}",
        "  oldest {",
        f"    max_candidate_sequences: {config.sequences_max}",
        f"    preferred_batch_size: [ {', '.join(map(str, config.preferred_batch_sizes))} ]",
        f"    max_queue_delay_microseconds: {config.batch_delay_us}",
        "  }",
    ]
    for state in config.states:
        kind, dims = f"data_type: {state.data_type.name_in_file}", f"dims: [ {', '.join(map(str, state.dims))} ]"
        lines += [
            "  state {",
            f"    input_name: {quote(state.input_name)} output_name: {quote(state.output_name)} {kind} {dims}",
            f"    initial_state {{ {kind} {dims} zero_data: true }}",
            "  }",
        ]
    return [*lines, "}"]


def _render_tensors(field: str, tensors: tuple[TensorConfig, ...]) -> list[str]:
    lines = [f"{field} ["]
    for at, tensor in enumerate(tensors):
        labels = f" label_filename: {quote(tensor.label_filename)}" if tensor.label_filename else ""
        labels += f" format: {tensor.format}" if tensor.format else ""
        dims = ", ".join(map(str, tensor.dims))
        lines.append(
            f"  {{ name: {quote(tensor.name)} data_type: {tensor.data_type.name_in_file} dims: [ {dims} ]{labels} }}"
            + ("," if at + 1 < len(tensors) else "")
        )
    return [*lines, "]"]
