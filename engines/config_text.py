"""Reads `config.pbtxt`: a documented subset of Triton's model configuration.

A field outside of the subset is refused by name and line, so that a configuration never silently means less than
it says. `engines/README.md` lists the subset with the meaning of each field.
"""

import re
from pathlib import Path
from typing import NamedTuple

from engines.config import Autopilot, DataType, Discipline, ModelConfig, Postprocess, TensorConfig
from engines.config_complete import Graph, ReadGraph, complete_max_batch_size, complete_tensors
from engines.config_sequences import find_contradictions, read_sequence_batching
from engines.config_serving import (
    RESPONSE_CACHE_MS_MAX,
    read_batching,
    read_instance_count,
    read_response_cache_ms,
    read_transaction_policy,
    read_versions,
    read_warmup,
)
from engines.errors import InvalidConfig
from engines.fields import Fields, Problems, read_number
from engines.textformat import parse_text, quote

# A configuration is a page of text; anything larger is not one.
CONFIG_BYTES_MAX = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_DEFAULTS = ModelConfig("", "", 1, (), ())
_INT32_MAX = 2**31 - 1
_TYPES = {kind.name_in_file: kind for kind in DataType}
# What Triton's backends call ours.
_TRITON_PARAMETERS = {"intra_op_thread_count": "starling.threads", "INFERENCE_NUM_THREADS": "starling.threads"}
_FORMATS = ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW")
_UNSUPPORTED_FLAGS = {
    "is_shape_tensor": "this node has no TensorRT engine",
    "allow_ragged_batch": "the rows of a batch have one shape here",
    "optional": "a request sends every input here",
}
# Field order and dims (without the batch) of what the nms step answers: see `Postprocess.NMS`.
_NMS_OUTPUTS = {
    "boxes": (DataType.FP32, 2),
    "scores": (DataType.FP32, 1),
    "classes": (DataType.INT32, 1),
    "count": (DataType.INT32, 0),
}


def read_config(path: Path, graph: ReadGraph | None = None) -> ModelConfig:
    """Reads `<repository>/<model>/config.pbtxt`; `graph` fills in what it leaves out.

    Raises:
        InvalidConfig: unreadable, malformed, unknown or missing fields, wrong types, or contradictions; every
            problem is listed with its line.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidConfig(
            f"{path}: cannot be read ({error.strerror}); every model needs a readable config.pbtxt",
            path=str(path),
        ) from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise InvalidConfig(
            f"{path}: {len(raw)} bytes; expected at most {CONFIG_BYTES_MAX}; is this a configuration?",
            path=str(path),
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InvalidConfig(
            f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8 text",
            path=str(path),
            line=line,
        ) from error
    return parse_config(text, str(path), folder=path.parent.name, graph=graph)


def parse_config(
    text: str, path: str = "config.pbtxt", *, folder: str | None = None, graph: ReadGraph | None = None
) -> ModelConfig:
    """Returns the configuration that `text` describes.

    Args:
        text: contents of the file.
        path: what errors call the file.
        folder: name of the model's folder, which `name` must equal, and is when it is absent; None skips that check.
        graph: reads the model's file when inputs or outputs are missing; None: they must not be.

    Raises:
        InvalidConfig: see `read_config`.
    """
    problems = Problems(path)
    root = Fields(parse_text(text, path), "", problems)
    name = _read_name(root, folder)
    batching = read_batching(root)
    sequences = read_sequence_batching(root)
    versions = read_versions(root)
    read_transaction_policy(root)
    read_warmup(root)
    cached_ms = read_response_cache_ms(root)
    backend = _read_backend(root, has_graph=graph is not None)
    model_filename = _read_filename(root)
    instance_count = read_instance_count(root)
    tensors = _read_given_tensors(root, may_miss=graph is not None and backend != "identity")
    parameters = _read_parameters(root)
    root.finish()
    problems.raise_any()  # what is wrong already is worth hearing before what the model's file says
    if graph is not None and not (tensors.inputs and tensors.outputs):
        tensors = _complete(root, tensors, graph(model_filename))
        taken = {name for one in sequences.states for name in (one.input_name, one.output_name)}
        tensors = tensors._replace(
            inputs=tuple(one for one in tensors.inputs if one.name not in taken),
            outputs=tuple(one for one in tensors.outputs if one.name not in taken),
        )
    config = ModelConfig(
        name=name,
        backend=backend,
        max_batch_size=tensors.max_batch_size,
        inputs=tensors.inputs,
        outputs=tensors.outputs,
        instance_count=instance_count,
        version_count=versions.highest,
        version_numbers=versions.numbers,
        model_filename=model_filename,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        preferred_batch_sizes=sequences.batch_sizes or batching.sizes,
        batch_delay_us=sequences.delay_us or batching.delay_us,
        # A line as long as there are sequences: each may have a step that waits.
        queue_max=sequences.sequences_max if sequences.states else batching.queue_max,
        default_timeout_us=batching.timeout_us,
        threads=parameters.threads,
        queue_bytes_max=parameters.queue_bytes_max,
        response_cache_ms=parameters.response_cache_ms or cached_ms,
        discipline=parameters.discipline,
        watchdog_ms=parameters.watchdog_ms,
        slo_p99_ms=parameters.slo_p99_ms,
        slo_miss_rate=parameters.slo_miss_rate,
        autopilot=parameters.autopilot,
        postprocess=parameters.postprocess,
        nms_score_threshold=parameters.score_threshold,
        nms_iou_threshold=parameters.iou_threshold,
        identity_delay_us=parameters.identity_delay_us,
        identity_fail_every=parameters.identity_fail_every,
        states=sequences.states,
        sequence_idle_us=sequences.idle_us,
        sequences_max=sequences.sequences_max,
        agent_affinity=parameters.agent_affinity,
    )
    _check_contradictions(config, root)
    problems.raise_any()
    return config


class _Parameters(NamedTuple):
    threads: int
    queue_bytes_max: int
    response_cache_ms: int
    discipline: Discipline
    watchdog_ms: int
    slo_p99_ms: float
    slo_miss_rate: float
    autopilot: Autopilot
    postprocess: Postprocess
    score_threshold: float
    iou_threshold: float
    identity_delay_us: int
    identity_fail_every: int
    agent_affinity: bool


def _read_name(root: Fields, folder: str | None) -> str:
    name = root.string("name", None if folder is None else folder)
    if name and not _NAME.fullmatch(name):
        root.refuse(
            "name",
            f"`name` is {quote(name)}; expected letters, digits, `.`, `_`, `-`, at most 128,"
            " beginning and ending with a letter or digit; rename the model",
        )
    elif name and folder is not None and name != folder:
        root.refuse(
            "name",
            f'`name` is "{name}" but the folder is "{folder}"; they must be equal, change either',
        )
    return name


# Triton's names for what our engine runs, ONNX by the way of OpenVINO.
_TRITON_BACKENDS = {"onnxruntime": "openvino", "openvino": "openvino", "identity": "identity"}
_TRITON_PLATFORMS = {"onnxruntime_onnx": "openvino", "openvino": "openvino"}


def _read_backend(root: Fields, *, has_graph: bool) -> str:
    platform = root.string("platform", "", among=tuple(_TRITON_PLATFORMS) if root.has("platform") else ())
    implied = _TRITON_PLATFORMS.get(platform, "openvino" if has_graph or root.has("platform") else None)
    name = root.string("backend", implied, among=tuple(_TRITON_BACKENDS))
    return _TRITON_BACKENDS.get(name, name)


def _read_filename(root: Fields) -> str:
    filename = root.string("default_model_filename", "")
    if filename in (".", "..") or "/" in filename or "\0" in filename:
        root.refuse(
            "default_model_filename",
            f"`default_model_filename` is {quote(filename)}; expected a file name in the version's folder, without `/`",
        )
    return filename


class _Tensors(NamedTuple):
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]


def _read_given_tensors(root: Fields, *, may_miss: bool) -> _Tensors:
    inputs, outputs = (
        () if may_miss and not root.has(field) else _read_tensors(root, field) for field in ("input", "output")
    )
    return _Tensors(root.integer("max_batch_size", 0, 0, 4096), inputs, outputs)


def _complete(root: Fields, given: _Tensors, graph: Graph) -> _Tensors:
    """Returns the tensors of a configuration that leaves out its inputs, its outputs or both."""
    largest = given.max_batch_size
    if not root.has("max_batch_size") and not given.inputs and not given.outputs:
        largest = complete_max_batch_size(graph)
    if largest and not graph.is_batched:
        root.refuse(
            "max_batch_size",
            f"`max_batch_size` is {largest}, but not every tensor of {graph.filename} begins with a free dimension;"
            " set it to 0, or describe `input` and `output`",
        )
    return _Tensors(
        largest,
        given.inputs or complete_tensors(graph.inputs, largest),
        given.outputs or complete_tensors(graph.outputs, largest),
    )


def _read_tensors(root: Fields, field: str) -> tuple[TensorConfig, ...]:
    tensors = []
    for one in root.messages(field):
        name = one.string("name")
        if one.has("name") and not 0 < len(name) <= 128:
            one.refuse(
                "name",
                f"`{field}.name` is {len(name)} characters; expected 1 to 128; rename it",
            )
        kind = _TYPES[one.word("data_type", _TYPES)]
        dims = one.integers("dims", -1, _INT32_MAX, required=True)
        if 0 in dims:
            one.refuse(
                "dims",
                f"`{field}.dims` of `{name}` has a 0; expected -1 (any) or >= 1; change it",
            )
        labels = one.string("label_filename", "") if field == "output" else ""
        if labels in (".", "..") or "/" in labels or "\0" in labels:
            one.refuse(
                "label_filename",
                f"`{field}.label_filename` is {quote(labels)}; expected a file name in the model's folder,"
                " without `/`; move the file there",
            )
        layout = one.word("format", _FORMATS, "FORMAT_NONE") if field == "input" else "FORMAT_NONE"
        _refuse_unsupported(one, field, name)
        one.finish()
        tensors.append(TensorConfig(name, kind, dims, labels, "" if layout == "FORMAT_NONE" else layout))
    if not tensors:
        root.refuse(
            field,
            f"`{field}` is missing; a model has at least one {field}, describe it",
        )
    return tuple(tensors)


def _refuse_unsupported(tensor: Fields, field: str, name: str) -> None:
    for flag, why in _UNSUPPORTED_FLAGS.items():
        if (field == "input" or flag == "is_shape_tensor") and tensor.word(flag, ("true", "false"), "false") == "true":
            tensor.refuse(flag, f"`{field}.{flag}` of `{name}` is true, and {why}; remove it")
    if tensor.has("reshape"):
        tensor.message("reshape")
        tensor.refuse(
            "reshape",
            f"`{field}.reshape` of `{name}` is not supported; give `dims` the shape that the model itself has",
        )


def _read_parameters(root: Fields) -> _Parameters:
    given: dict[str, tuple[str, Fields]] = {}
    known = (
        "threads",
        "queue_bytes_max",
        "response_cache_ms",
        "discipline",
        "watchdog_ms",
        "slo_p99_ms",
        "slo_miss_rate",
        "autopilot",
        "postprocess",
        "nms_score_threshold",
        "nms_iou_threshold",
        "identity_delay_us",
        "identity_fail_every",
        "agent_affinity",
    )
    for entry in root.messages("parameters"):
        key, value = entry.string("key"), entry.message("value")
        text = value.string("string_value") if value else ""
        if value is None:
            entry.refuse(
                "value",
                "`parameters.value` is missing; add `value { string_value: ... }`",
            )
        else:
            value.finish()
        entry.finish()
        key = _TRITON_PARAMETERS.get(key, key)
        short = key.removeprefix("starling.")
        if not key.startswith("starling.") or short not in known:
            listed = ", ".join(f"starling.{one}" for one in known)
            entry.refuse(
                "key",
                f'unknown parameter "{key}"; known: {listed}; remove it or correct its name',
            )
        elif short in given:
            entry.refuse("key", f'parameter "{key}" is given twice; give it once')
        else:
            given[short] = (text, entry)

    def number(key: str, default: float, least: float, most: float, *, whole: bool) -> float:
        if key not in given:
            return default
        text, entry = given[key]
        found = read_number(text, least, most)
        if found is None or (whole and not text.strip().isdecimal()):
            kind = "an integer" if whole else "a number"
            entry.refuse(
                "value",
                f'"starling.{key}" is "{text}"; expected {kind} from {least} to {most}',
            )
            return default
        return int(text) if whole else found

    order = given["discipline"][0] if "discipline" in given else _DEFAULTS.discipline.value
    if order not in tuple(Discipline):
        given["discipline"][1].refuse(
            "value",
            f'"starling.discipline" is "{order}"; expected "deadline" or "fifo"; correct or remove it',
        )
        order = _DEFAULTS.discipline.value
    post = given["postprocess"][0] if "postprocess" in given else ""
    if post not in tuple(Postprocess):
        given["postprocess"][1].refuse(
            "value",
            f'"starling.postprocess" is "{post}"; expected "nms"; correct or remove it',
        )
        post = ""
    for key in ("nms_score_threshold", "nms_iou_threshold"):
        if key in given and post != Postprocess.NMS:
            given[key][1].refuse(
                "key",
                f'"starling.{key}" needs "starling.postprocess" to be "nms"; add that or remove this',
            )
    affinity = given["agent_affinity"][0] if "agent_affinity" in given else "false"
    if affinity not in ("true", "false"):
        given["agent_affinity"][1].refuse(
            "value",
            f'"starling.agent_affinity" is "{affinity}"; expected "true" or "false"; correct or remove it',
        )
    return _Parameters(
        threads=int(number("threads", _DEFAULTS.threads, 1, 256, whole=True)),
        queue_bytes_max=int(
            number(
                "queue_bytes_max",
                _DEFAULTS.queue_bytes_max,
                1 << 10,
                1 << 40,
                whole=True,
            )
        ),
        response_cache_ms=int(number("response_cache_ms", 0, 0, RESPONSE_CACHE_MS_MAX, whole=True)),
        discipline=Discipline(order),
        watchdog_ms=int(number("watchdog_ms", _DEFAULTS.watchdog_ms, 10, 3_600_000, whole=True)),
        slo_p99_ms=number("slo_p99_ms", 0, 0.1, 3_600_000, whole=False),
        slo_miss_rate=number("slo_miss_rate", _DEFAULTS.slo_miss_rate, 0, 1, whole=False),
        autopilot=_read_autopilot(given, order),
        postprocess=Postprocess(post),
        score_threshold=number("nms_score_threshold", _DEFAULTS.nms_score_threshold, 0, 1, whole=False),
        iou_threshold=number("nms_iou_threshold", _DEFAULTS.nms_iou_threshold, 0, 1, whole=False),
        identity_delay_us=int(number("identity_delay_us", 0, 0, 60_000_000, whole=True)),
        identity_fail_every=int(number("identity_fail_every", 0, 0, _INT32_MAX, whole=True)),
        agent_affinity=affinity == "true",
    )


def _read_autopilot(given: dict[str, tuple[str, Fields]], order: str) -> Autopilot:
    for key in ("slo_miss_rate", "autopilot"):
        if key in given and "slo_p99_ms" not in given:
            given[key][1].refuse(
                "key",
                f'"starling.{key}" needs an objective; add "starling.slo_p99_ms" or remove this',
            )
    if "slo_p99_ms" in given and order == Discipline.FIFO:
        given["slo_p99_ms"][1].refuse(
            "key",
            '"starling.slo_p99_ms" has no meaning with "starling.discipline" "fifo", which admits everything;'
            " remove one of them",
        )
    mode = Autopilot.ADVISE if "slo_p99_ms" in given else Autopilot.OFF
    text, entry = given.get("autopilot", (mode.value, None))
    if entry is not None and text not in tuple(Autopilot):
        entry.refuse(
            "value",
            f'"starling.autopilot" is "{text}"; expected "off", "advise" or "act"; correct or remove it',
        )
        return mode
    return Autopilot(text)


def _check_contradictions(config: ModelConfig, root: Fields) -> None:
    for size in config.preferred_batch_sizes:
        if size > config.max_batch_size:
            root.refuse(
                "dynamic_batching",
                f"`dynamic_batching.preferred_batch_size` {size} exceeds `max_batch_size`"
                f" {config.max_batch_size}; lower the one or raise the other",
            )
    for field, tensors in (("input", config.inputs), ("output", config.outputs)):
        names = [tensor.name for tensor in tensors]
        for name in sorted({name for name in names if names.count(name) > 1}):
            root.refuse(
                field,
                f'two {field}s are called "{name}"; expected different names, rename one',
            )
    for field, text in find_contradictions(config):
        root.refuse(field, text)
    if config.backend == "identity":
        _check_identity(config, root)
    elif config.identity_delay_us or config.identity_fail_every:
        root.refuse(
            "parameters",
            f'"starling.identity_delay_us" and "starling.identity_fail_every" are for backend "identity", not'
            f' "{config.backend}"; remove them',
        )
    if config.postprocess is Postprocess.NMS and not config.batched:
        root.refuse("max_batch_size", 'postprocess "nms" needs a batch dimension; set `max_batch_size` to 1 or more')
    elif config.postprocess is Postprocess.NMS:
        _check_nms(config, root)


def _check_identity(config: ModelConfig, root: Fields) -> None:
    ins = [(tensor.data_type, tensor.dims) for tensor in config.inputs]
    outs = [(tensor.data_type, tensor.dims) for tensor in config.outputs]
    if ins != outs:
        root.refuse(
            "output",
            'backend "identity" answers each input as it came, so outputs must have the data_type and dims of'
            " the inputs, in order; change `output`",
        )
    if config.postprocess is not Postprocess.NONE:
        root.refuse(
            "parameters",
            'backend "identity" has no postprocess; remove "starling.postprocess"',
        )


def _check_nms(config: ModelConfig, root: Fields) -> None:
    found = {tensor.name: (tensor.data_type, len(tensor.dims)) for tensor in config.outputs}
    limits = {tensor.dims[0] for tensor in config.outputs if tensor.dims}
    boxes = next((tensor.dims for tensor in config.outputs if tensor.name == "boxes"), ())
    if found != _NMS_OUTPUTS or len(limits) != 1 or min(limits) < 1 or boxes[1] != 4:
        root.refuse(
            "output",
            'postprocess "nms" answers boxes FP32 [N, 4], scores FP32 [N], classes INT32 [N], count INT32 [],'
            " with one N >= 1; describe exactly these outputs",
        )
