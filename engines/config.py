"""The configuration of one model as values; `engines.config_text` reads and writes them as `config.pbtxt`."""

from dataclasses import dataclass
from enum import StrEnum


class DataType(StrEnum):
    """Element types; the value is the name used on the wire."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def name_in_file(self) -> str:
        """Returns the name used in `config.pbtxt`.

        >>> DataType.FP32.name_in_file, DataType.BYTES.name_in_file
        ('TYPE_FP32', 'TYPE_STRING')
        """
        return "TYPE_STRING" if self is DataType.BYTES else f"TYPE_{self}"


class Discipline(StrEnum):
    """In which order waiting requests run."""

    DEADLINE = "deadline"  # class, fairness, deadline; what cannot be met is refused at once
    FIFO = "fifo"  # arrival, no admission: to measure what the other one is worth


class Autopilot(StrEnum):
    """What the node does about a model's latency objective."""

    OFF = "off"
    ADVISE = "advise"  # says what it would change
    ACT = "act"  # changes it


class Postprocess(StrEnum):
    """What native code does with the outputs of the engine before they are answered."""

    NONE = ""
    NMS = "nms"


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """One input or output: `dims` without the batch, -1 where any length will do, empty for one value per row.

    `format` is what a configuration says of the layout, such as `FORMAT_NCHW`; it is passed on and changes nothing.
    """

    name: str
    data_type: DataType
    dims: tuple[int, ...]
    label_filename: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class StateConfig:
    """A tensor that each step of a sequence leaves for the next one: the graph's output becomes its input.

    Agents see neither. `dims` are fixed and without the batch; the first step gets zeros.
    """

    input_name: str
    output_name: str
    data_type: DataType
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything that `config.pbtxt` says, with defaults filled in and contradictions ruled out.

    Times are in microseconds; 0 for `default_timeout_us` means that a caller without a deadline has the node's 30 s.
    `max_batch_size` 0 means that tensors have no batch dimension: `dims` are whole shapes and requests run one by one.
    `batch_delay_us` 0 means that requests which wait together run together but nothing waits for more.
    """

    name: str
    backend: str
    max_batch_size: int
    inputs: tuple[TensorConfig, ...]
    outputs: tuple[TensorConfig, ...]
    preferred_batch_sizes: tuple[int, ...] = ()
    batch_delay_us: int = 0
    queue_max: int = 64  # a second of work for the slowest model we ship
    default_timeout_us: int = 0
    instance_count: int = 1
    threads: int = 1  # per instance; convnets gain more from a second instance than from a second thread
    queue_bytes_max: int = 256 << 20  # forty frames of 1080p
    version_count: int = 1  # 0: every version
    version_numbers: tuple[int, ...] = ()  # these and no others, where there are any
    model_filename: str = ""  # in a version's folder; empty: model.onnx, or model.xml where there is that
    priority_levels: int = 0  # what the priority of a request may be; 0: not asked for
    default_priority_level: int = 0  # of requests that name none; 1 is the most urgent
    response_cache_ms: int = 0  # answers to equal inputs are kept this long; 0: not at all
    discipline: Discipline = Discipline.DEADLINE
    watchdog_ms: int = 5000  # a run that takes longer has hung; the slowest model we ship takes a tenth of a second
    slo_p99_ms: float = 0.0  # objective for the 99th percentile of answers, arrival to answer; 0: none
    slo_miss_rate: float = 0.01  # requests that may be late or refused, as a share: what a p99 leaves over
    autopilot: Autopilot = Autopilot.OFF
    postprocess: Postprocess = Postprocess.NONE
    nms_score_threshold: float = 0.35
    nms_iou_threshold: float = 0.5
    # Test aids of backend "identity": a batch takes this long, and each n-th batch fails (0: none does).
    identity_delay_us: int = 0
    identity_fail_every: int = 0
    states: tuple[StateConfig, ...] = ()  # none: requests have nothing to do with each other
    sequence_idle_us: int = 1_000_000  # a sequence without a request for this long is forgotten; Triton's default
    sequences_max: int = 1024  # kept at once; beyond it a start is refused
    agent_affinity: bool = False  # calls of one agent should reach the same node, where its frames and answers are kept

    @property
    def buckets(self) -> tuple[int, ...]:
        """Returns the batch sizes to compile: 1, the preferred ones and the largest, ascending."""
        return tuple(sorted({1, *self.preferred_batch_sizes, self.max_batch_size or 1}))

    @property
    def default_class(self) -> int:
        """Returns the priority class of requests that name none: level 1 is class 3, level 4 is class 0."""
        return 4 - self.default_priority_level if self.default_priority_level else 0

    @property
    def batched(self) -> bool:
        """Returns whether tensors have a batch dimension before `dims`."""
        return self.max_batch_size > 0
