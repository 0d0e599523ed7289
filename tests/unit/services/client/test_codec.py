"""Arrays to bytes and back: every dtype and layout, and every way a reply can lie."""

import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from starling.predict.v1.predict_service_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
    Timing,
)
from starling.tensor.v1.tensor_pb2 import DataType, Tensor

from services.client import InvalidInput, MalformedReply, Prediction, PredictionError, Request, Superseded
from services.client.codec import (
    MESSAGE_BYTES_MAX,
    decode_response,
    decode_stream_response,
    encode_request,
    encode_stream_request,
)
from services.client.values import Array

ALL_DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def encode(array: Array) -> Tensor:
    """Returns what protobuf reads from the bytes that the codec writes."""
    request = PredictRequest.FromString(encode_request(Request(model="m", inputs={"x": array})))
    (tensor,) = request.inputs
    return tensor


def lie(kind: str, shape: list[int], data: bytes) -> Tensor:
    """Returns a tensor whose parts need not belong together."""
    return Tensor(name="y", data_type=DataType.Value(f"DATA_TYPE_{kind}"), shape=shape, data=data)


def decode(tensor: Tensor) -> Array:
    return decode_response(PredictResponse(outputs=[tensor]).SerializeToString(), 0)[tensor.name]


@pytest.mark.parametrize("code", ALL_DTYPES)
def test_every_dtype_comes_back_as_it_was(code: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(code)
    back = decode(encode(array))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert not back.flags.writeable


def test_every_data_type_on_the_wire_is_known() -> None:
    sent = {encode(np.zeros((1, 2), code)).data_type for code in ALL_DTYPES}
    sent.add(encode(np.zeros((1, 2), ml_dtypes.bfloat16)).data_type)
    sent.add(encode(np.array([["a", "b"]])).data_type)
    assert sent == set(DataType.values()) - {DataType.DATA_TYPE_UNSPECIFIED}


@given(
    hnp.arrays(
        st.sampled_from([np.dtype(code) for code in ["<f4", ">f4", "<i8", ">i2", "u1", "?"]]),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    st.text(max_size=300),
)
def test_what_the_codec_writes_is_what_protobuf_writes(array: Array, name: str) -> None:
    little = array.astype(array.dtype.newbyteorder("<"))
    tensor = encode(array)
    by_protobuf = Tensor(name="x", data_type=tensor.data_type, shape=array.shape, data=little.tobytes())
    assert tensor == by_protobuf
    request = Request(model=name, inputs={name: array, "y": array}, outputs=("a",), sequence=-1)
    written = PredictRequest.FromString(encode_request(request))
    assert [tensor.name for tensor in written.inputs] == list(dict.fromkeys([name, "y"]))
    assert (written.model_name, written.sequence, list(written.output_names)) == (name, -1, ["a"])


def test_layouts_that_are_not_row_major_are_copied_right() -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for array in (base[:, ::-1], base.T, base[..., 1], np.asfortranarray(base), base[:0]):
        assert np.array_equal(decode(encode(array)), array)


def test_a_big_endian_array_travels_little_endian() -> None:
    tensor = encode(np.array([1], ">u4"))
    assert tensor.data == b"\x01\x00\x00\x00"


def test_a_scalar_array_keeps_its_empty_shape() -> None:
    assert decode(encode(np.array(3.5, np.float32))).shape == ()


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([1j]), "dtype complex128; expected one of bool, float16"),
        (np.array([None]), "has a NoneType as element 0; expected bytes or str"),
        (np.array([[b"a"], [7]], object), "has a int as element 1; expected bytes or str"),
        (np.array(["2026"], "M8[s]"), "dtype datetime64[s]"),
        (np.zeros(2, [("a", "f4")]), "dtype [('a', '<f4')]"),
        (np.zeros(2, np.longdouble), "dtype float128; expected"),
        ([1.0], "is a list; expected a numpy.ndarray"),
        (np.float32(1), "is a float32; expected a numpy.ndarray"),
        (None, "is a NoneType"),
    ],
)
def test_what_has_no_type_on_the_wire_is_refused_with_the_fix(array: object, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        encode(array)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert caught.value.reason == "INVALID_INPUT"


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "zwölf"], ["", "x" * 300]]),
        np.array([[b"a", "zwölf".encode()], [b"", b"x" * 300]]),
        np.array([[b"a", "zwölf"], ["", b"x" * 300]], object),
    ],
)
def test_texts_travel_as_bytes_and_come_back_as_bytes(array: Array) -> None:
    tensor = encode(array)
    assert tensor.data_type == DataType.DATA_TYPE_BYTES
    assert tensor.data == (b"\1\0\0\0a" + b"\6\0\0\0" + "zwölf".encode() + b"\0\0\0\0" + b"\x2c\1\0\0" + b"x" * 300)
    back = decode(tensor)
    assert back.tolist() == [[b"a", "zwölf".encode()], [b"", b"x" * 300]]
    assert not back.flags.writeable


def test_bytes_keep_their_zeros_and_their_shape() -> None:
    back = decode(encode(np.array([[b"\0a\0", b"\xff\0"]], object)))
    assert back.tolist() == [[b"\0a\0", b"\xff\0"]]
    assert decode(encode(np.empty((0, 3), object))).shape == (0, 3)
    assert decode(encode(np.array(b"one", object))).item() == b"one"


def test_bfloat16_travels_both_ways() -> None:
    array = np.array([[1.5, -2.0, 3e38]], ml_dtypes.bfloat16)
    tensor = encode(array)
    assert tensor.data_type == DataType.DATA_TYPE_BF16
    back = decode(tensor)
    assert back.dtype == ml_dtypes.bfloat16
    assert np.array_equal(back, array)


def test_bfloat16_without_its_package_becomes_float32_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = np.array([[1.5, -2.0, 3e38]], ml_dtypes.bfloat16)
    tensor = encode(array)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    back = decode(tensor)
    assert back.dtype == np.float32
    assert np.array_equal(back, array.astype(np.float32))
    assert not back.flags.writeable


def test_a_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    frame = np.broadcast_to(np.uint8(0), (MESSAGE_BYTES_MAX // 1000 + 1, 1000))
    with pytest.raises(InvalidInput, match=r"at most 67108864 travel in one message"):
        encode_request(Request(model="m", inputs={"x": frame}))


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(model="m", inputs={}, version=2**63), "cannot be written"),
        (Request(model="\ud800", inputs={}), "cannot be written"),
        (Request(model=7, inputs={}), "cannot be written"),  # type: ignore[arg-type]
        (Request(model="m", inputs={"\ud800": np.zeros(1)}), "cannot be written"),
        (Request(model="m", inputs={}, budget_s=0), "budget_s is 0; expected"),
        (Request(model="m", inputs={}, budget_s=float("nan")), "budget_s is nan"),
        (Request(model="m", inputs={}, budget_s=1e300), "budget_s is 1e+300"),
    ],
)
def test_values_that_have_no_place_are_refused(request_: Request, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        encode_request(request_)
    assert says in str(caught.value)


def test_a_budget_is_a_duration() -> None:
    data = encode_request(Request(model="m", inputs={}, budget_s=0.025))
    assert PredictRequest.FromString(data).budget.ToMicroseconds() == 25_000
    bare = encode_request(Request(model="m", inputs={}))
    assert not PredictRequest.FromString(bare).HasField("budget")


def test_a_stream_request_wraps_a_request() -> None:
    request = Request(model="m", inputs={"x": np.arange(300)}, stream_id="cam", sequence=4)
    wrapped = PredictStreamRequest.FromString(encode_stream_request(request))
    assert wrapped.request == PredictRequest.FromString(encode_request(request))


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (lie("FP32", [1, 4], bytes(12)), "12 bytes; FP32[1, 4] needs 16"),
        (lie("UINT8", [2], bytes(3)), "3 bytes; UINT8[2] needs 2"),
        (lie("FP32", [], b""), "0 bytes; FP32[] needs 4"),
        (lie("FP32", [2**62, 2**62], bytes(4)), "needs"),
        (lie("UINT8", [-1, -2], bytes(2)), "no dimension is negative"),
        (lie("UNSPECIFIED", [1], bytes(1)), "data type UNSPECIFIED"),
        (lie("BOOL", [2], b"\x01\x02"), "bytes other than 0 and 1"),
        (lie("BYTES", [1], bytes(3)), "has 3 bytes, which are not the elements of BYTES[1]"),
        (lie("BYTES", [1], b"\4\0\0\0abc"), "has 7 bytes, which are not the elements of BYTES[1]"),
        (lie("BYTES", [1], b"\xff\xff\xff\xff"), "has 4 bytes, which are not the elements of BYTES[1]"),
        (lie("BYTES", [1], bytes(8)), "has 8 bytes, which are not the elements of BYTES[1]"),
        (lie("BYTES", [2**40, 2**40], bytes(8)), "which are not the elements of BYTES"),
        (lie("BYTES", [-1, -1], bytes(4)), "which are not the elements of BYTES[-1, -1]"),
        (Tensor.FromString(lie("BOOL", [1], b"").SerializeToString() + b"\x10\x63"), "data type 99"),
    ],
)
def test_a_reply_whose_tensor_lies_is_malformed(tensor: Tensor, says: str) -> None:
    with pytest.raises(MalformedReply) as caught:
        decode(tensor)
    assert "output 'y'" in str(caught.value)
    assert says in str(caught.value)
    assert (caught.value.status, caught.value.reason) == ("INTERNAL", "MALFORMED_REPLY")


def test_two_outputs_of_one_name_are_malformed() -> None:
    tensor = lie("UINT8", [1], bytes(1))
    with pytest.raises(MalformedReply, match=r"two outputs 'y'"):
        decode_response(PredictResponse(outputs=[tensor, tensor]).SerializeToString(), 0)


@given(st.binary(max_size=200))
def test_random_bytes_are_an_answer_or_malformed_and_nothing_else(data: bytes) -> None:
    for decode_any in (decode_response, decode_stream_response):
        try:
            answer = decode_any(data, 0)
        except MalformedReply:
            continue
        assert isinstance(answer, Prediction | PredictionError)


def test_a_refusal_in_a_stream_keeps_its_facts() -> None:
    reply = PredictStreamResponse()
    reply.error.code = 8
    reply.error.reason = "QUEUE_FULL"
    reply.error.message = "full"
    reply.error.request_id = "r1"
    reply.error.retry_delay.FromMilliseconds(250)
    reply.error.facts["queued"] = "64"
    refusal = decode_stream_response(reply.SerializeToString(), 9)
    assert refusal == PredictionError(
        status="RESOURCE_EXHAUSTED",
        reason="QUEUE_FULL",
        message="full",
        retry_delay_s=0.25,
        request_id="r1",
        metadata={"queued": "64"},
        round_trip_us=9,
    )
    assert refusal.to_error().metadata == {"queued": "64"}
    assert repr(refusal.to_error()) == "<QueueFull QUEUE_FULL retry in 0.25 s: full>"


def test_a_superseded_frame_in_a_stream_is_an_error_of_its_own() -> None:
    reply = PredictStreamResponse()
    reply.error.code = 10
    reply.error.reason = "SUPERSEDED"
    refusal = decode_stream_response(reply.SerializeToString(), 9)
    assert isinstance(refusal, PredictionError)
    assert (refusal.status, type(refusal.to_error())) == ("ABORTED", Superseded)


def test_the_nodes_account_of_the_time_is_complete() -> None:
    timing = Timing(
        queue_us=1, compute_us=2, total_us=3, batch_size=4, batch_wait_us=5, predicted_us=6, slack_us=-(2**62)
    )
    answer = decode_response(PredictResponse(timing=timing).SerializeToString(), 8)
    assert {field.name: getattr(answer, field.name) for field in Timing.DESCRIPTOR.fields} == {
        field.name: value for field, value in timing.ListFields()
    }


def test_an_empty_stream_reply_is_malformed() -> None:
    with pytest.raises(MalformedReply, match=r"neither an answer nor a refusal"):
        decode_stream_response(b"", 0)


def test_an_answer_reads_well() -> None:
    tensor = encode(np.zeros((1, 2), np.float32))
    reply = PredictResponse(model_name="m", model_version=3, node="edge-0", outputs=[tensor], request_id="r")
    prediction = decode_response(reply.SerializeToString(), 1234)
    assert repr(prediction) == (
        "<Prediction m:3 node=edge-0 x:float32[1, 2] batch=0 queue=0us compute=0us total=0us predicted=0us "
        "slack=0us round_trip=1234us>"
    )
    with pytest.raises(KeyError, match=r"no output 'z'; there are x"):
        prediction["z"]
    with pytest.raises(TypeError):
        prediction.outputs["x"] = tensor  # type: ignore[index]
