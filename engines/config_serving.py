"""Reads how a model is run out of its configuration: versions, instances, batching and its queue.

What Triton's configuration can ask for and we do not do is refused with the reason, never ignored.
"""

from typing import NamedTuple

from engines.config import ModelConfig
from engines.fields import Fields

_DEFAULTS = ModelConfig("", "", 1, (), ())
_TIME_US_MAX = 3_600_000_000
_QUEUE_MAX = 1 << 20
# Longer than ten seconds no answer is kept, whatever is asked for.
RESPONSE_CACHE_MS_MAX = 10_000
# Levels 1 to 4 are our classes 3 to 0.
PRIORITY_LEVELS_MAX = 4
_VERSION_MAX = 2**31 - 1
_SAMPLE_TYPES = (
    "TYPE_FP32",
    *("TYPE_BOOL", "TYPE_BF16", "TYPE_FP16", "TYPE_FP64", "TYPE_STRING"),
    *(f"TYPE_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
)


class Versions(NamedTuple):
    """Which versions to serve: the `highest` so many (0: all), or those of `numbers` where there are any."""

    highest: int
    numbers: tuple[int, ...]


class Batching(NamedTuple):
    """What `dynamic_batching` says."""

    sizes: tuple[int, ...] = ()
    delay_us: int = 0
    queue_max: int = _DEFAULTS.queue_max
    timeout_us: int = 0
    priority_levels: int = 0
    default_priority_level: int = 0


def read_versions(root: Fields) -> Versions:
    """Returns what `version_policy` says; the highest version when it says nothing."""
    policy = root.message("version_policy")
    if policy is None:
        return Versions(_DEFAULTS.version_count, ())
    latest, every, specific = (policy.message(name) for name in ("latest", "all", "specific"))
    if sum(one is not None for one in (latest, every, specific)) > 1:
        root.refuse("version_policy", "`version_policy` has several policies; give one of latest, all, specific")
    count = latest.integer("num_versions", 1, 1, 1024) if latest else _DEFAULTS.version_count
    numbers = specific.integers("versions", 1, _VERSION_MAX, required=True) if specific else ()
    for one in (latest, every, specific, policy):
        if one:
            one.finish()
    return Versions(0 if every else count, tuple(sorted(set(numbers), reverse=True)))


def read_instance_count(root: Fields) -> int:
    """Returns how many engines run at once; refuses groups that want a GPU."""
    count = 0
    for group in root.messages("instance_group"):
        group.string("name", "")
        count += group.integer("count", 1, 1, 256)
        kind = group.word("kind", ("KIND_CPU", "KIND_AUTO", "KIND_GPU", "KIND_MODEL"), "KIND_AUTO")
        if kind in ("KIND_GPU", "KIND_MODEL"):
            group.refuse(
                "kind",
                f"`instance_group.kind` is `{kind}`, and this node runs models on the CPU alone;"
                " use KIND_CPU or KIND_AUTO",
            )
        group.finish()
    return count or _DEFAULTS.instance_count


def read_batching(root: Fields) -> Batching:
    """Returns what `dynamic_batching` says."""
    batching = root.message("dynamic_batching")
    if batching is None:
        return Batching()
    sizes = batching.integers("preferred_batch_size", 1, 4096)
    if len(set(sizes)) != len(sizes):
        root.refuse(
            "dynamic_batching",
            f"`dynamic_batching.preferred_batch_size` is {list(sizes)}; expected each size once",
        )
    delay_us = batching.integer("max_queue_delay_microseconds", 0, 0, _TIME_US_MAX)
    if batching.word("preserve_ordering", ("true", "false"), "false") == "true":
        batching.refuse(
            "preserve_ordering",
            "`dynamic_batching.preserve_ordering` is true, and answers leave when they are ready; remove it, or send"
            " the requests of one stream one after another",
        )
    if batching.has("priority_queue_policy"):
        batching.messages("priority_queue_policy")
        batching.refuse(
            "priority_queue_policy",
            "`dynamic_batching.priority_queue_policy` asks for a queue of its own for each priority, and ours share"
            " one; say it once in `default_queue_policy`",
        )
    levels = batching.integer("priority_levels", 0, 0, PRIORITY_LEVELS_MAX)
    level = batching.integer("default_priority_level", 0, 0, PRIORITY_LEVELS_MAX)
    if level > levels or (levels and not level):
        batching.refuse(
            "default_priority_level",
            f"`dynamic_batching.default_priority_level` is {level} with {levels} priority_levels; expected"
            f" {f'1 to {levels}' if levels else 'none'}",
        )
    policy = batching.message("default_queue_policy")
    queue_max, timeout_us = _read_queue_policy(policy) if policy else (_DEFAULTS.queue_max, 0)
    batching.finish()
    return Batching(sizes, delay_us, queue_max, timeout_us, levels, level)


def _read_queue_policy(policy: Fields) -> tuple[int, int]:
    # A request may always shorten its time: whoever asks for less wants the refusal sooner.
    policy.word("allow_timeout_override", ("true", "false"), "false")
    if policy.word("timeout_action", ("REJECT", "DELAY"), "REJECT") == "DELAY":
        policy.refuse(
            "timeout_action",
            "`default_queue_policy.timeout_action` is `DELAY`, and what is late is never computed here; use REJECT",
        )
    # 0 is Triton's word for no limit; ours stays bounded, by bytes too.
    queue_max = policy.integer("max_queue_size", _DEFAULTS.queue_max, 0, _QUEUE_MAX) or _QUEUE_MAX
    timeout_us = policy.integer("default_timeout_microseconds", 0, 0, _TIME_US_MAX)
    policy.finish()
    return queue_max, timeout_us


def read_response_cache_ms(root: Fields) -> int:
    """Returns for how long `response_cache` keeps answers; 0 when it is absent or off."""
    cache = root.message("response_cache")
    if cache is None:
        return 0
    enabled = cache.word("enable", ("true", "false"), "false") == "true"
    cache.finish()
    return RESPONSE_CACHE_MS_MAX if enabled else 0


def read_transaction_policy(root: Fields) -> None:
    """Refuses a decoupled model: one request has one answer here."""
    policy = root.message("model_transaction_policy")
    if policy is None:
        return
    if policy.word("decoupled", ("true", "false"), "false") == "true":
        policy.refuse(
            "decoupled",
            "`model_transaction_policy.decoupled` is true, and a request has one answer here;"
            " serve this model elsewhere",
        )
    policy.finish()


def read_warmup(root: Fields) -> None:
    """Checks `model_warmup` and forgets it: every batch size is warmed up on zeros anyway, more than once."""
    for sample in root.messages("model_warmup"):
        sample.string("name", "")
        sample.integer("batch_size", 1, 0, 4096)
        sample.integer("count", 0, 0, 1 << 20)
        for entry in sample.messages("inputs"):
            entry.string("key")
            value = entry.message("value")
            if value:
                value.word("data_type", _SAMPLE_TYPES)
                value.integers("dims", -1, 2**31 - 1)
                for kind in ("zero_data", "random_data"):
                    value.word(kind, ("true", "false"), "true")
                value.finish()
            entry.finish()
        sample.finish()
