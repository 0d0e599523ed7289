"""Reads `sequence_batching` of `config.pbtxt`: state that the node keeps between the requests of a sequence."""

from typing import NamedTuple

from engines.config import DataType, ModelConfig, StateConfig
from engines.fields import Fields

_DEFAULTS = ModelConfig("", "", 1, (), ())
_INT32_MAX = 2**31 - 1
_TIME_US_MAX = 3_600_000_000
_TYPES = {kind.name_in_file: kind for kind in DataType if kind is not DataType.BYTES}  # state is numbers


class SequenceBatching(NamedTuple):
    """What `sequence_batching` says; without states when it is not there."""

    states: tuple[StateConfig, ...] = ()
    idle_us: int = _DEFAULTS.sequence_idle_us
    sequences_max: int = _DEFAULTS.sequences_max
    batch_sizes: tuple[int, ...] = ()
    delay_us: int = 0


def read_sequence_batching(root: Fields) -> SequenceBatching:
    """Returns the subset of Triton's `ModelSequenceBatching` that keeps implicit state."""
    batching = root.message("sequence_batching")
    if batching is None:
        return SequenceBatching()
    if root.has("dynamic_batching"):
        root.refuse(
            "sequence_batching",
            "`sequence_batching` and `dynamic_batching` are both given; expected one of them; steps of different"
            " sequences share batches, so move its settings to `sequence_batching.oldest`",
        )
    oldest, direct = batching.message("oldest"), batching.message("direct")
    if oldest and direct:
        batching.refuse("direct", "`sequence_batching` has both `oldest` and `direct`; expected one; remove the other")
    strategy = oldest or direct
    result = SequenceBatching(
        states=tuple(_read_state(one) for one in batching.messages("state")),
        idle_us=batching.integer("max_sequence_idle_microseconds", _DEFAULTS.sequence_idle_us, 1, _TIME_US_MAX),
        sequences_max=oldest.integer("max_candidate_sequences", _DEFAULTS.sequences_max, 1, 1 << 20)
        if oldest
        else _DEFAULTS.sequences_max,
        batch_sizes=oldest.integers("preferred_batch_size", 1, 4096) if oldest else (),
        delay_us=strategy.integer("max_queue_delay_microseconds", 0, 0, _TIME_US_MAX) if strategy else 0,
    )
    if not result.states:
        batching.refuse(
            "state",
            "`sequence_batching.state` is missing; only what a model reads and writes as state is kept for it;"
            " describe each state, or remove `sequence_batching`",
        )
    for one in (oldest, direct, batching):
        if one:
            one.finish()
    return result


def _read_state(state: Fields) -> StateConfig:
    kind = _TYPES[state.word("data_type", _TYPES)]
    dims = state.integers("dims", 1, _INT32_MAX, required=True)
    result = StateConfig(state.string("input_name"), state.string("output_name"), kind, dims)
    initial = state.messages("initial_state")
    for one in initial:
        one.string("name", "")
        if one.word("data_type", _TYPES) != kind.name_in_file or one.integers("dims", 1, _INT32_MAX) != dims:
            one.refuse(
                "dims",
                "`sequence_batching.state.initial_state` has another data_type or dims than its state; expected the"
                " same; correct it",
            )
        if one.word("zero_data", ("true", "false")) != "true":
            one.refuse("zero_data", "`initial_state.zero_data` is false; only states of zeros begin a sequence")
        one.finish()
    state.finish()
    return result


def find_contradictions(config: ModelConfig) -> list[tuple[str, str]]:
    """Returns what of a stateful model's configuration cannot be together, as field and text."""
    if not config.states:
        return []
    found = []
    for field, names in (
        ("input", [one.name for one in config.inputs] + [one.input_name for one in config.states]),
        ("output", [one.name for one in config.outputs] + [one.output_name for one in config.states]),
    ):
        found += [
            (
                "sequence_batching",
                f'"{name}" is both a state\'s {field} and another {field}; agents see no states, describe it once',
            )
            for name in sorted({name for name in names if names.count(name) > 1})
        ]
    if config.response_cache_ms:
        found.append(
            (
                "parameters",
                '"starling.response_cache_ms" remembers answers to equal inputs, and a model with `sequence_batching`'
                " answers them by its state; remove one of them",
            )
        )
    if config.postprocess:
        found.append(("parameters", '"starling.postprocess" and `sequence_batching` exclude each other; remove one'))
    return found
