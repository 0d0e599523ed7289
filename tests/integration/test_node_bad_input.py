"""Bad requests over the wire: each gets its own status, reason and text, and the node goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse
from starling.tensor.v1.tensor_pb2 import DataType, Tensor

from tests.support.node_calls import PREDICT, echo_request, pass_bytes, raw_method, refused, tensor

FP32, UINT8 = DataType.DATA_TYPE_FP32, DataType.DATA_TYPE_UINT8
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
X = tensor("x0", (1, 64))
GOOD = echo_request(1.5).SerializeToString()
MODELS = "/starling.predict.v1.ModelService"


def request(**fields: Any) -> bytes:
    return echo_request(**fields).SerializeToString()


def inputs(*tensors: Tensor, model: str = "echo") -> bytes:
    return request(model_name=model, inputs=tensors)


def without(field: str) -> bytes:
    message = PredictRequest.FromString(GOOD)
    message.ClearField(field)
    return message.SerializeToString()


def field(number: int, wire_type: int, payload: bytes) -> bytes:
    """Returns one protobuf field; the length stands before a payload of wire type 2 below 128 bytes."""
    return bytes([number << 3 | wire_type]) + (bytes([len(payload)]) if wire_type == 2 else b"") + payload


def text_field(number: int, payload: bytes) -> bytes:
    return field(number, 2, payload)


@pytest.fixture(autouse=True)
def the_node_goes_on(channel: grpc.Channel) -> Iterator[None]:
    """Holds after every test: a good request is answered."""
    yield
    answer = PredictResponse.FromString(raw_method(channel)(GOOD, timeout=10))
    assert np.frombuffer(answer.outputs[0].data, np.float32).tolist() == [1.5] * 64


SIGNATURE = [
    ("no input", without("inputs"), 'echo:1 wants input "x0" FP32[?, 64], got no input; send every input'),
    ("wrong name", inputs(tensor("x1", (1, 64))), 'wants input "x0" FP32[?, 64], got "x1"'),
    ("no name", inputs(tensor("", (1, 64))), 'wants input "x0" FP32[?, 64], got ""'),
    ("twice", inputs(X, X), 'has 1 input(s), "x0" is not one of them or came twice; leave it out'),
    ("extra", inputs(X, tensor("mask", (1, 1))), '"mask" is not one of them or came twice'),
    ("wrong type", inputs(tensor("x0", (1, 64), UINT8)), 'wants FP32[?, 64], got UINT8[1, 64]; convert or reshape'),
    ("no type", inputs(Tensor(name="x0", shape=[1, 64], data=bytes(256))), 'input "x0" has no known data_type'),
    ("unknown type", inputs(Tensor(name="x0", data_type=99, shape=[1, 64])), 'input "x0" has no known data_type'),  # type: ignore[arg-type]
    ("no shape", inputs(tensor("x0", (), FP32)), 'input "x0" has no shape; dimension 0 is the batch'),
    ("no batch", inputs(tensor("x0", (64,))), "wants FP32[?, 64], got FP32[64]"),
    ("wrong size", inputs(tensor("x0", (1, 63))), "wants FP32[?, 64], got FP32[1, 63]"),
    ("wrong rank", inputs(tensor("x0", (1, 8, 8))), "wants FP32[?, 64], got FP32[1, 8, 8]"),
    ("nine dimensions", inputs(tensor("x0", (1,) * 9)), "field `inputs.shape` could not be read, wanted at most 8"),
    ("zero rows", inputs(tensor("x0", (0, 64))), "has batch 0, wanted the same number in every input, 1 to 8"),
    ("too many rows", inputs(tensor("x0", (9, 64))), "has batch 9, wanted the same number in every input, 1 to 8"),
    ("negative rows", inputs(tensor("x0", (-1, 64), data=b"")), "has shape [?, 64], whose size overflows"),
    ("negative size", inputs(tensor("x0", (1, -64), data=b"")), "wants FP32[?, 64], got FP32[1, ?]"),
    ("too few bytes", inputs(tensor("x0", (1, 64), data=bytes(255))), "needs 256 bytes, got 255; send row-major"),
    ("too many bytes", inputs(tensor("x0", (1, 64), data=bytes(257))), "needs 256 bytes, got 257; send row-major"),
    ("no bytes", inputs(tensor("x0", (1, 64), data=b"")), "needs 256 bytes, got 0; send row-major"),
    ("zero size", inputs(tensor("x0", (1, 0), UINT8), model="bytes"), "wants UINT8[?, ?], got UINT8[1, 0]"),
    ("2^40 x 2^40", inputs(tensor("x0", (1 << 40, 1 << 40), UINT8, b""), model="bytes"), "whose size overflows"),
    ("2^62 rows", inputs(tensor("x0", (1 << 62, 64), data=b"")), "whose size overflows; send the true shape"),
    ("2^63 - 1 bytes", inputs(tensor("x0", (1, (1 << 63) - 1), UINT8, b""), model="bytes"), "775807 bytes, got 0"),
]  # fmt: skip
FIELDS = [
    ("nothing", b"", "model_name is missing; set it to a name that ModelService.ListModels returns"),
    ("no model", without("model_name"), "model_name is missing"),
    ("negative version", request(model_version=-1), "model_version is -1, wanted >= 1, or 0 for the highest"),
    ("priority 4", request(priority=4), "priority is 4, wanted 0 to 3"),
    ("negative priority", request(priority=-1), "priority is -1, wanted 0 to 3"),
    ("negative budget", request(budget={"seconds": -1}), "budget is -1000000 us, wanted more than 0, or none"),
    ("zero budget", request(budget={}), "budget is 0 us, wanted more than 0, or none"),
    ("endless budget", request(budget={"seconds": 1 << 62}), "field `budget` could not be read, wanted a Duration"),
    ("wrong budget", request(budget={"nanos": 1_000_000_000}), "field `budget` could not be read, wanted a Duration"),
    ("long model name", request(model_name="m" * 257), "`model_name` could not be read, wanted UTF-8 of at most 256"),
    ("long request id", request(request_id="r" * 129), "`request_id` could not be read, wanted UTF-8 of at most 128"),
    ("long stream id", request(stream_id="s" * 129), "field `stream_id` could not be read"),
    ("unknown output", request(output_names=["y9"]), 'output "y9" is unknown, echo returns y0; ask for these'),
    ("65 outputs", request(output_names=["y0"] * 65), "field `output_names` could not be read, wanted at most 64"),
    ("65 inputs", inputs(*[X] * 65), "field `inputs` could not be read, wanted at most 64 tensors"),
]  # fmt: skip
MALFORMED = [
    ("one byte", b"\xff", "it ends inside a field"),
    ("field zero", b"\x02\x00", "it ends inside a field, or a field number is out of range"),
    ("a group", b"\x5b\x5c", "it ends inside a field, or a field number is out of range"),
    ("bad wire type", b"\x0f", "a field number is out of range"),
    ("endless varint", b"\x10" + b"\xff" * 11, "field `model_version` could not be read"),
    ("length beyond the end", b"\x0a\x7fecho", "field `model_name` could not be read"),
    ("2^63 bytes", b"\x0a" + b"\xff" * 8 + b"\x7f", "field `model_name` could not be read"),
    ("bad UTF-8 model", text_field(1, b"\xff\xfe"), "field `model_name` could not be read, wanted UTF-8"),
    ("bad UTF-8 id", GOOD + text_field(3, b"\xc3\x28"), "field `request_id` could not be read, wanted UTF-8"),
    ("bad UTF-8 output", GOOD + text_field(5, b"\xed\xa0\x80"), "field `output_names` could not be read, wanted UTF-8"),
    ("bad UTF-8 stream", GOOD + text_field(6, b"\xf8\x88"), "field `stream_id` could not be read, wanted UTF-8"),
    ("bad UTF-8 tensor", GOOD + text_field(4, text_field(1, b"\x80")), "`inputs.name` could not be read, wanted UTF-8"),
    ("tensor beyond the end", GOOD + b"\x22\x70\x0a", "field `inputs` could not be read, wanted a Tensor no longer"),
    ("data beyond the tensor", GOOD + text_field(4, b"\x22\x05abc"), "field `inputs.data` could not be read"),
    ("unknown field beyond the end", GOOD + b"\x9a\x06\x05a", "field 99 runs over the end of the message"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "says"), [case[1:] for case in SIGNATURE], ids=[case[0] for case in SIGNATURE])
def test_what_does_not_fit_the_signature_is_refused(channel: grpc.Channel, message: bytes, says: str) -> None:
    refusal = refused(lambda: raw_method(channel)(message, timeout=10))
    assert (refusal.code, refusal.reason) == INVALID
    assert says in refusal.text
    assert refusal.retry_s is None


@pytest.mark.parametrize(("message", "says"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS])
def test_fields_out_of_range_are_refused(channel: grpc.Channel, message: bytes, says: str) -> None:
    refusal = refused(lambda: raw_method(channel)(message, timeout=10))
    assert (refusal.code, refusal.reason) == INVALID
    assert says in refusal.text


@pytest.mark.parametrize(("message", "says"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_what_is_no_message_is_refused(channel: grpc.Channel, message: bytes, says: str) -> None:
    refusal = refused(lambda: raw_method(channel)(message, timeout=10))
    assert (refusal.code, refusal.reason) == INVALID
    assert refusal.text.startswith("malformed PredictRequest: ")
    assert says in refusal.text
    assert refusal.facts["queue_us"] == "0"
    assert refusal.facts["total_us"].isdigit()


def test_inputs_of_different_batches_are_refused(channel: grpc.Channel) -> None:
    widths = (1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8)
    types = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13)
    rows = [1] * 11 + [2]
    tensors = [tensor(f"x{i}", (rows[i], 3), types[i], bytes(3 * rows[i] * widths[i])) for i in range(12)]
    refusal = refused(lambda: raw_method(channel)(inputs(*tensors, model="every-type"), timeout=10))
    assert (refusal.code, refusal.reason) == INVALID
    assert 'every-type:1 input "x11" has batch 2, wanted the same number in every input, 1 to 4' in refusal.text
    assert refusal.facts["input"] == "x11"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (request(model_name="nobody"), "model nobody is unknown to node node-1; loaded: batched:1, "),
        (request(model_name="ö" * 128), "is unknown to node node-1; loaded: "),
        (request(model_version=2), "model echo:2 is in the repository of node node-1 but not loaded; loaded: "),
    ],
)
def test_unknown_models_and_versions_are_named(channel: grpc.Channel, message: bytes, says: str) -> None:
    refusal = refused(lambda: raw_method(channel)(message, timeout=10))
    assert refusal.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
    assert refusal.reason in ("MODEL_NOT_FOUND", "MODEL_NOT_READY")
    assert says in refusal.text


def test_the_request_id_comes_back_with_the_refusal(channel: grpc.Channel) -> None:
    refusal = refused(lambda: raw_method(channel)(request(request_id="r-7", model_name="nobody"), timeout=10))
    assert refusal.facts.keys() == {"model", "node", "request_id", "queue_us", "total_us"}
    assert (refusal.facts["model"], refusal.facts["node"]) == ("nobody", "node-1")
    assert refusal.facts["request_id"] == "r-7"


def test_a_refusal_about_much_stays_within_the_limits_of_headers(channel: grpc.Channel) -> None:
    long = inputs(*(tensor("ü" * 127 + f"{n:02}", (1, 1)) for n in range(64)))
    refusal = refused(lambda: raw_method(channel)(long, timeout=10))
    assert (refusal.code, refusal.reason) == INVALID
    assert refusal.text.startswith('signature mismatch: echo:1 wants input "x0"')
    assert refusal.text.endswith("…")


def test_a_message_over_the_limit_is_refused_by_its_size(channel: grpc.Channel) -> None:
    size = (4 << 20) + 1
    refusal = refused(lambda: raw_method(channel)(inputs(tensor("x0", (1, size), UINT8), model="bytes"), timeout=10))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(4 << 20) in refusal.text


def test_unknown_fields_are_skipped_and_the_last_value_counts(channel: grpc.Channel) -> None:
    unknown = text_field(15, b"later") + b"\x98\x06\x96\x01" + field(13, 1, bytes(8)) + field(12, 5, bytes(4))
    message = text_field(1, b"nobody") + unknown + GOOD + unknown
    answer = PredictResponse.FromString(raw_method(channel)(message, timeout=10))
    assert answer.model_name == "echo"


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("/starling.predict.v1.PredictService/Predikt", GOOD, grpc.StatusCode.UNIMPLEMENTED),
        ("/starling.predict.v1.Nobody/Predict", GOOD, grpc.StatusCode.UNIMPLEMENTED),
        ("/" + "x" * 3000, GOOD, grpc.StatusCode.UNIMPLEMENTED),
        (f"{MODELS}/GetModel", b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (f"{MODELS}/GetModel", text_field(1, b"\xff"), grpc.StatusCode.INVALID_ARGUMENT),
        (f"{MODELS}/GetModel", text_field(1, b"../echo"), grpc.StatusCode.INVALID_ARGUMENT),
        (f"{MODELS}/LoadModel", text_field(1, b"/etc"), grpc.StatusCode.INVALID_ARGUMENT),
        (f"{MODELS}/LoadModel", b"", grpc.StatusCode.INVALID_ARGUMENT),
        (f"{MODELS}/UnloadModel", text_field(1, b"\x00"), grpc.StatusCode.NOT_FOUND),
        (f"{MODELS}/ListModels", b"\x0a\x7f", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_other_methods_refuse_bad_calls_too(
    channel: grpc.Channel, method: str, message: bytes, code: grpc.StatusCode
) -> None:
    refusal = refused(lambda: raw_method(channel, method)(message, timeout=10))
    assert refusal.code is code
    expected = {"INVALID_ARGUMENT": "INVALID_INPUT", "NOT_FOUND": "MODEL_NOT_FOUND"}.get(code.name, "")
    assert refusal.reason == expected


@pytest.mark.parametrize("method", [PREDICT, f"{MODELS}/ListModels"])
def test_a_unary_call_without_a_message_is_refused(channel: grpc.Channel, method: str) -> None:
    call = channel.stream_stream(method, pass_bytes, pass_bytes)(iter([]), timeout=10)
    with pytest.raises(grpc.RpcError):
        list(call)
    assert call.code() is grpc.StatusCode.INTERNAL
    assert call.details() == "the request has no message"
