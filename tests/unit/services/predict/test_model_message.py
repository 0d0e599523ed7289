"""Tests of a version's status on the wire."""

from __future__ import annotations

from dataclasses import replace

import pytest
from starling.predict.v1 import model_service_pb2 as pb
from starling.tensor.v1.tensor_pb2 import DATA_TYPE_INT32, DATA_TYPE_UINT8

from engines import DataType, ModelConfig, Postprocess, StateConfig, TensorConfig
from services.predict.model_service import to_message
from services.predict.models import ModelStatus, State

CONFIG = ModelConfig(
    name="nanodet",
    backend="openvino",
    max_batch_size=8,
    inputs=(TensorConfig("frame", DataType.UINT8, (-1, -1, 3)),),
    outputs=(
        TensorConfig("classes", DataType.INT32, (100,), label_filename="labels.txt"),
        TensorConfig("count", DataType.INT32, ()),
    ),
    preferred_batch_sizes=(4, 2),
    postprocess=Postprocess.NMS,
)
NATIVE = {
    "engine": "openvino_cpu",
    "engine_properties": {"NUM_STREAMS": "2"},
    "buckets": [
        {"batch_size": 1, "p50_us": 15_250, "p99_us": 18_000, "median_us": 14_000, "high_us": 16_000},
        {"batch_size": 2, "p50_us": 1_250_000, "p99_us": 3_000_001, "median_us": 1_000_000, "high_us": 2_000_000},
    ],
    "margin_us": 1_500,
    "autopilot": None,
}
READY = ModelStatus(
    "nanodet",
    3,
    State.READY,
    config=CONFIG,
    labels={"classes": ("person", "bicycle")},
    license="Apache-2.0",
    native=NATIVE,
)


def test_a_ready_version_says_everything() -> None:
    message = to_message(READY)
    assert (message.name, message.version, message.state) == ("nanodet", 3, pb.MODEL_STATE_READY)
    assert (message.engine, message.license, message.max_batch_size) == ("openvino_cpu", "Apache-2.0", 8)
    assert list(message.batch_buckets) == [1, 2, 4, 8]
    assert dict(message.engine_properties) == {"NUM_STREAMS": "2"}
    assert not message.stateful
    (frame,) = message.inputs
    assert (frame.name, frame.data_type, list(frame.dims)) == ("frame", DATA_TYPE_UINT8, [-1, -1, 3])
    assert [(one.name, one.data_type, list(one.dims)) for one in message.outputs] == [
        ("classes", DATA_TYPE_INT32, [100]),
        ("count", DATA_TYPE_INT32, []),
    ]


def test_a_version_that_keeps_state_says_so() -> None:
    config = replace(CONFIG, postprocess=Postprocess.NONE, states=(StateConfig("h", "h_out", DataType.FP32, (1,)),))
    message = to_message(replace(READY, config=config))
    assert message.stateful
    assert [one.name for one in (*message.inputs, *message.outputs)] == ["frame", "classes", "count"]


def test_labels_go_only_to_the_output_that_names_a_file() -> None:
    assert [list(one.labels) for one in to_message(READY).outputs] == [["person", "bicycle"], []]
    assert not to_message(READY).inputs[0].labels


def test_times_are_durations() -> None:
    timings = to_message(READY).bucket_timings
    assert [(one.batch_size, one.p50.ToMicroseconds(), one.p99.ToMicroseconds()) for one in timings] == [
        (1, 15_250, 18_000),
        (2, 1_250_000, 3_000_001),
    ]
    expected = [(one.expected_p50.ToMicroseconds(), one.expected_p90.ToMicroseconds()) for one in timings]
    assert expected == [(14_000, 16_000), (1_000_000, 2_000_000)]


def test_a_margin_is_a_duration_also_when_it_is_zero() -> None:
    assert to_message(READY).admission_margin.ToMicroseconds() == 1_500
    without = to_message(replace(READY, native={**NATIVE, "margin_us": 0}))
    assert without.HasField("admission_margin")
    assert without.admission_margin.ToMicroseconds() == 0
    assert not to_message(replace(READY, state=State.AVAILABLE, native=None)).HasField("admission_margin")


def test_a_version_that_is_not_loaded_has_a_signature_and_no_engine() -> None:
    message = to_message(replace(READY, state=State.AVAILABLE, native=None))
    assert message.state == pb.MODEL_STATE_AVAILABLE
    assert message.inputs
    assert (message.engine, len(message.bucket_timings), len(message.engine_properties)) == ("", 0, 0)


def test_a_version_whose_configuration_cannot_be_read_has_only_the_reason() -> None:
    message = to_message(ModelStatus("wrong", 0, State.FAILED, "config.pbtxt:2: unknown field `foo`"))
    assert message == pb.Model(
        name="wrong", state=pb.MODEL_STATE_FAILED, status_message="config.pbtxt:2: unknown field `foo`"
    )


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_word_on_the_wire(state: State) -> None:
    message = to_message(ModelStatus("m", 1, state))
    assert pb.ModelState.Name(message.state) == f"MODEL_STATE_{state.value}"


@pytest.mark.parametrize("kind", DataType)
def test_every_element_type_has_a_word_on_the_wire(kind: DataType) -> None:
    config = replace(CONFIG, inputs=(TensorConfig("x", kind, (1,)),))
    (spec,) = to_message(ModelStatus("m", 1, State.READY, config=config)).inputs
    assert spec.data_type > 0


def test_an_autopilot_says_what_it_does_and_what_it_would_do() -> None:
    pilot = {
        "mode": "advise",
        "slo_p99_us": 50_000,
        "slo_miss_rate": 0.02,
        "bucket_rows": [1, 2, 4, 8],
        "applied": {"batch_delay_us": 1500, "largest_bucket": 3, "slots": 2, "bound_us": 0},
        "advised": {"batch_delay_us": 0, "largest_bucket": 1, "slots": 1, "bound_us": 45_000},
        "reason": "slow_answers",
        "text": "p99 80.0 ms of 50.0 ms",
        "answered": 99,
        "p99_us": 80_000,
        "missed": 25,
        "demand": 100,
        "changes": {"slow_answers": 3},
    }
    message = to_message(replace(READY, native={**NATIVE, "autopilot": pilot})).autopilot
    assert message.mode == pb.AUTOPILOT_MODE_ADVISE
    assert (message.slo_p99.ToMicroseconds(), message.slo_miss_rate) == (50_000, 0.02)
    assert (message.p99.ToMicroseconds(), message.miss_rate) == (80_000, 0.25)
    assert (message.reason, message.message) == ("slow_answers", "p99 80.0 ms of 50.0 ms")
    assert dict(message.change_counts) == {"slow_answers": 3}
    applied, advised = message.applied, message.advised
    assert (applied.batch_delay.ToMicroseconds(), applied.max_batch_size, applied.concurrency) == (1500, 8, 2)
    assert not applied.HasField("admission_bound")
    assert (advised.batch_delay.ToMicroseconds(), advised.max_batch_size, advised.concurrency) == (0, 2, 1)
    assert advised.admission_bound.ToMicroseconds() == 45_000


def test_an_autopilot_that_saw_nothing_yet_names_no_latency() -> None:
    setting = {"batch_delay_us": 0, "largest_bucket": 0, "slots": 1, "bound_us": 0}
    pilot = {
        "mode": "act",
        "slo_p99_us": 1000,
        "slo_miss_rate": 0.01,
        "bucket_rows": [1],
        "applied": setting,
        "advised": setting,
        "reason": "",
        "text": "",
        "answered": 0,
        "p99_us": 0,
        "missed": 0,
        "demand": 0,
        "changes": {},
    }
    message = to_message(replace(READY, native={**NATIVE, "autopilot": pilot})).autopilot
    assert message.mode == pb.AUTOPILOT_MODE_ACT
    assert not message.HasField("p99")
    assert message.miss_rate == 0
    assert not to_message(READY).HasField("autopilot")
