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
        {"batch_size": 1, "p50_us": 15_250, "p99_us": 18_000, "runs": 20},
        {"batch_size": 2, "p50_us": 1_250_000, "p99_us": 3_000_001, "runs": 20},
    ],
}
READY = ModelStatus(
    "nanodet", 3, State.READY, config=CONFIG, labels=("person", "bicycle"), license="Apache-2.0", native=NATIVE
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
