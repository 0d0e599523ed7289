"""Native engines: models, queues and batches. See engines/README.md."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import numpy.typing


def simulate(arrivals: numpy.typing.NDArray[numpy.int64], *, bucket_rows: Sequence[int], bucket_run_us: Sequence[int], slots: int = 1, discipline: str = 'deadline', batch_delay_us: int = 0, queue_max: int = 256, noise: float = 0.0, seed: int = 0) -> numpy.typing.NDArray[numpy.int64]:
    """
    Runs the real scheduler in virtual time against an engine that only takes time.

    arrivals: int64[n, 7], by arrival: arrival_us, deadline_us, priority, tenant, stream or -1, sequence, rows.
    Returns int64[n, 5]: reason (0 is answered, see reasons()), start_us, end_us, predicted_us, batch_rows.
    """

def simulate_autopilot(arrivals: numpy.typing.NDArray[numpy.int64], *, bucket_rows: Sequence[int], bucket_run_us: Sequence[int], slo_p99_us: int, slo_miss_rate: float = 0.01, mode: str = 'act', slots: int = 1, cores: int = 0, slowdowns: Sequence[tuple[int, float]] = (), batch_delay_us: int = 0, queue_max: int = 256, noise: float = 0.0, seed: int = 0) -> tuple[numpy.typing.NDArray[numpy.int64], dict[str, Any], list[dict[str, Any]]]:
    """
    As `simulate`, with the autopilot at work. Returns the rows, its policy and its records.

    cores: runs side by side beyond these slow each other down; 0 is as many as slots.
    slowdowns: from a time on, runs take a factor as long.
    """

def autopilot_decide(policy: dict[str, Any], before: dict[str, Any], seen: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Runs one step of the controller; returns its decision and the state after it.

    The dictionaries are those of a record; raises InvalidInput when one is not.
    """

def admission_ns(*, queued: int, tenants: int = 1, cold: bool = False, runs: int = 1000) -> list[int]:
    """
    Nanoseconds of each of `runs` decisions about a request, every second one a refusal.

    queued: requests that wait already, shared by `tenants`. cold: caches are used for something else in between,
    as a convnet does. Releases the GIL. Raises InvalidInput.
    """

def ssim(a: numpy.typing.NDArray[numpy.uint8], b: numpy.typing.NDArray[numpy.uint8]) -> float:
    """
    Returns the mean structural similarity of two uint8[H, W] planes of one shape; 1.0 when identical.
    Borrows; releases the GIL. Raises InvalidInput when shapes differ or an edge is under 7.
    """

def small_luma(frame: numpy.typing.NDArray[numpy.uint8]) -> numpy.typing.NDArray[numpy.uint8] | None:
    """
    Returns the brightness of a uint8[H, W, 3] BGR frame with edges of at most 104; None when it cannot be
    compared. Borrows the frame, returns an owned array.
    """

def read_graph(path: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """
    Returns the inputs and outputs of an ONNX or OpenVINO file, `dims` with the batch. Raises CorruptModel.
    """

def bare_rows_per_s(path: str, *, rows: int, seconds: float) -> float:
    """
    Returns rows per second of the OpenVINO engine in a loop with nothing around it, in batches of `rows` on one
    thread. Releases the GIL. Raises CorruptModel, InvalidConfig or EngineFailed.
    """

def reasons() -> list[str]:
    """Reasons by number, as `simulate` returns them."""

class TensorSpec:
    """
    A name, an element type and the dimensions behind the batch; -1 is any size.
    """

    def __init__(self, name: str, data_type: str, dims: Sequence[int]) -> None:
        """data_type is a name such as "UINT8" or "FP32"."""

    @property
    def name(self) -> str: ...

    @property
    def data_type(self) -> str: ...

    @property
    def dims(self) -> list[int]: ...

    def __repr__(self) -> str: ...

class StateSpec:
    """A tensor that a step of a sequence leaves for the next one."""

    def __init__(self, input: TensorSpec, output_name: str) -> None:
        """
        The graph's output of that name becomes its input; every dimension is fixed.
        """

    def __repr__(self) -> str: ...

class ModelConfig:
    """Everything needed to load one model version."""

    def __init__(self, *, name: str, version: int, backend: str, path: str = '', inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], buckets: Sequence[int] = [1], instances: int = 1, threads: int = 1, queue_max: int = 256, queue_bytes_max: int = 268435456, batch_delay_us: int = 0, default_timeout_us: int = 1000000, postprocess: str = '', score_threshold: float = 0.3499999940395355, iou_threshold: float = 0.5, identity_delay_us: int = 0, identity_fail_every: int = 0, discipline: str = 'deadline', watchdog_us: int = 5000000, response_cache_us: int = 0, states: Sequence[StateSpec] = [], sequence_idle_us: int = 1000000, sequences_max: int = 1024, batched: bool = True, labels: Mapping[str, Sequence[str]] = {}, default_priority: int = 0, autopilot: str = 'off', slo_p99_us: int = 0, slo_miss_rate: float = 0.01) -> None:
        """
        batched: false when tensors have no batch dimension; dims are then whole shapes. labels: of the classes of an output, by its name. buckets: batch sizes to compile, ascending. Times in microseconds. postprocess: "" or "nms". autopilot: "off", "advise" or "act"; without slo_p99_us there is none.
        """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    def __repr__(self) -> str: ...

class ModelRegistry:
    """The loaded model versions of this process. Thread-safe."""

    def __init__(self) -> None: ...

    def load(self, config: ModelConfig) -> None:
        """
        Compiles, warms up and publishes a version; replaces a loaded one. Releases the GIL.

        Raises InvalidConfig, CorruptModel, EngineFailed or Draining of engines.errors.
        """

    def unload(self, name: str, version: int, grace_s: float = 5.0) -> bool:
        """
        Drains and frees a version; False when it was not loaded. Releases the GIL.
        """

    def drain(self, grace_s: float = 5.0) -> int:
        """
        Drains everything for good; returns admitted requests that got no answer. Releases the GIL.
        """

    def set_available(self, names: Sequence[str]) -> None:
        """
        Names this process could load, so that a refusal can tell "not loaded" from "unknown".
        """

    def models(self) -> list[dict[str, Any]]:
        """
        One dict per loaded version: name, version, engine, queued, finished (by reason), buckets, histograms.
        """

    def take_autopilot_records(self) -> list[dict[str, Any]]:
        """
        The autopilots' steps since the last call, oldest first, as `autopilot_decide` takes them. A model keeps the
        last 256, almost a minute; a gap in `number` shows that more went by.
        """

    def infer(self, name: str, version: int, inputs: Mapping[str, numpy.typing.NDArray[Any]], timeout_s: float = 1.0) -> dict[str, numpy.typing.NDArray[Any]]:
        """
        Runs one request through the model's queue and waits. Borrows the inputs, returns owned arrays.
        version 0 is the highest. Releases the GIL. Raises the errors of engines.errors.
        """
