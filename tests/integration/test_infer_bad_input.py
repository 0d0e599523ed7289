"""Bad Open Inference requests over the wire: each gets its own status and text, and the node goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from starling.inference.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)

from tests.support.infer_calls import INFER, STREAM_INFER, add_input, echo_infer, infer, set_parameters
from tests.support.node_calls import pass_bytes, raw_method, refused

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
GOOD = echo_infer().SerializeToString()
ONE = b"\1\0\0\0a"  # an element of BYTES


def field(number: int, payload: bytes) -> bytes:
    """Returns one length-delimited field of less than 128 bytes."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def request(**fields: Any) -> bytes:
    return echo_infer(**fields).SerializeToString()


def tensor(datatype: str, shape: tuple[int, ...], raw: bytes | None = None, **fields: Any) -> bytes:
    """Returns a request for `echo` with one input: raw bytes, typed contents, or parameters of the input."""
    message = ModelInferRequest(model_name="echo")
    contents = fields.pop("contents", None)
    added = add_input(message, "x0", datatype, shape, raw, **fields)
    if contents is not None:
        added.contents.CopyFrom(InferTensorContents(**contents))
    return message.SerializeToString()


def texts(raw: bytes | None = None, shape: tuple[int, ...] = (1, 2), **contents: Any) -> bytes:
    """Returns a request for `texts`: raw BYTES or typed contents."""
    message = ModelInferRequest(model_name="texts")
    added = add_input(message, "x0", "BYTES", shape, raw)
    if raw is None:
        added.contents.CopyFrom(InferTensorContents(**contents))
    return message.SerializeToString()


def with_parameters(**parameters: Any) -> bytes:
    message = echo_infer()
    set_parameters(message.parameters, parameters)
    return message.SerializeToString()


def with_outputs(*names: str, **parameters: Any) -> bytes:
    message = echo_infer()
    for name in names:
        set_parameters(message.outputs.add(name=name).parameters, parameters)
    return message.SerializeToString()


def two_inputs(*, raw: int, typed: bool) -> bytes:
    message = ModelInferRequest(model_name="echo")
    for name in ("x0", "x1"):
        added = add_input(message, name, "FP32", (1, 1))
        if typed:
            added.contents.fp32_contents.append(1)
    message.raw_input_contents.extend([bytes(4)] * raw)
    return message.SerializeToString()


@pytest.fixture(autouse=True)
def the_node_goes_on(channel: grpc.Channel) -> Iterator[None]:
    """Holds after every test: a good request is answered."""
    yield
    answer = infer(channel, echo_infer())
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [1.5] * 64


def unread(name: str, wanted: str) -> str:
    end = "send a message made from starling/inference/open_inference.proto"
    return f"malformed ModelInferRequest: field `{name}` could not be read, wanted {wanted}; {end}"


def no_version(text: str) -> str:
    return f'model_version is "{text}", wanted digits of a number >= 1, or nothing for the highest'


def mismatch(what: str, model: str = "echo") -> str:
    return f'signature mismatch: {model}:1 input "x0" {what}'


def no_texts(why: str, shape: str = "[1, 2]") -> str:
    end = "put its length before each element, 4 bytes little-endian"
    return mismatch(f"of shape {shape} is no tensor of BYTES: {why}; {end}", "texts")


def wrong_size(size: int) -> str:
    return mismatch(f"of shape [1, 64] needs 256 bytes, got {size}; send row-major elements without padding")


def wrong_count(shape: str, wanted: str, got: int, name: str) -> str:
    return f'input "x0" of shape {shape} needs {wanted}, got {got} in {name}; send every element once'


def wrong_type(name: str) -> str:
    wanted = "BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 or BYTES"
    return f'input "x0" has datatype "{name}", wanted {wanted}'


def raw_count(got: int) -> str:
    return f"raw_input_contents has {got} element(s), wanted 2, one for each input that is not in shared memory"


REGION: dict[str, Any] = {"shared_memory_region": "r", "shared_memory_byte_size": 256}
CUT = "malformed ModelInferRequest: it ends inside a field, or a field number is out of range"
SHORT_TEXT = "UTF-8 of at most 128 bytes"
TEXT = "UTF-8 of at most 256 bytes"
HALF = "wants an int64 or uint64 from 0 to 2^63 - 1"
SEQUENCE_ID = "parameter `sequence_id` wants an int64, a uint64 or a text of at most 128 bytes"
SQUARE = "[1099511627776, 1099511627776]"
SIGNATURE = "wants FP32[?, 64], got"
RESHAPE = "convert or reshape before sending"
REQUESTS = [
    ("nothing", b"", "model_name is missing; set it to a name that RepositoryIndex returns"),
    ("cut off", GOOD[:-1], unread("raw_input_contents", "a length that the message holds")),
    ("cut in a tag", GOOD + b"\xff", CUT),
    ("a group", GOOD + b"\x0b", CUT),
    ("bad UTF-8 name", GOOD + field(1, b"\xff"), unread("model_name", TEXT)),
    ("bad UTF-8 id", GOOD + field(3, b"\xc0\x80"), unread("id", SHORT_TEXT)),
    ("bad UTF-8 key", GOOD + field(4, field(1, b"\xff")), unread("parameters", "names of at most 256 bytes of UTF-8")),
    ("bad UTF-8 input", GOOD + field(5, field(1, b"\xff")), unread("inputs.name", TEXT)),
    ("bad UTF-8 output", GOOD + field(6, field(1, b"\xff")), unread("outputs.name", TEXT)),
    ("long name", request(model="m" * 257), unread("model_name", TEXT)),
    ("long id", request(id="i" * 129), unread("id", SHORT_TEXT)),
    ("version", request(model_version="latest"), no_version("latest")),
    ("version 0", request(model_version="0"), no_version("0")),
    ("version -1", request(model_version="-1"), no_version("-1")),
    ("version 2^64", request(model_version=str(2**64)), no_version("18446744073709551616")),
    ("65 inputs", GOOD + field(5, b"\x12\x04FP32\x1a\x01\x01") * 64, unread("inputs", "at most 64 tensors")),
    ("65 raw", GOOD + field(7, b"") * 64, unread("raw_input_contents", "at most 64 elements")),
    ("65 outputs", GOOD + b"".join(field(6, field(1, b"%d" % i)) for i in range(65)),
     unread("outputs", "at most 64 tensors")),
    ("raw missing", two_inputs(raw=1, typed=False), raw_count(1)),
    ("raw surplus", two_inputs(raw=3, typed=False), raw_count(3)),
    ("mixed", two_inputs(raw=2, typed=True),
     'input "x0" has contents beside raw_input_contents; send all inputs raw or none'),
    ("no shape", tensor("FP32", (), bytes(4)), 'input "x0" has no shape; say it, dimension 0 first'),
    ("rank 9", tensor("FP32", (1,) * 9, bytes(4)), unread("inputs.shape", "at most 8 integers")),
    ("below 0", tensor("FP32", (1, -64), bytes(256)),
     'input "x0" has shape [1, ?] with a dimension below 0; send the true shape'),
    ("no type", tensor("", (1, 64), bytes(256)), wrong_type("")),
    ("strange type", tensor("TYPE_FP32", (1, 64), bytes(256)), wrong_type("TYPE_FP32")),
    ("2^40 x 2^40", tensor("FP32", (2**40, 2**40), bytes(4)), mismatch(f"{SIGNATURE} FP32{SQUARE}; {RESHAPE}")),
    ("2^62 x 64", tensor("FP32", (2**62, 64), bytes(4)),
     mismatch("has shape [4611686018427387904, 64], whose size overflows; send the true shape")),
    ("short", tensor("FP32", (1, 64), bytes(255)), wrong_size(255)),
    ("long", tensor("FP32", (1, 64), bytes(257)), wrong_size(257)),
    ("batch 9", tensor("FP32", (9, 64), bytes(9 * 256)),
     'batch mismatch: echo:1 input "x0" has batch 9, wanted the same number in every input, 1 to 8; split the request'),
    ("no elements", tensor("FP32", (1, 64)), wrong_count("[1, 64]", "64 elements", 0, "fp32_contents")),
    ("typed 2^40 x 2^40", tensor("INT8", (2**40, 2**40), contents={"int_contents": [1]}),
     wrong_count(SQUARE, "more than fit", 1, "int_contents")),
    ("few elements", tensor("FP32", (1, 64), contents={"fp32_contents": [1] * 63}),
     wrong_count("[1, 64]", "64 elements", 63, "fp32_contents")),
    ("wrong field", tensor("FP32", (1, 64), contents={"fp64_contents": [1] * 64}),
     'input "x0" is FP32 and has elements in field 7 of its contents; send all of them in fp32_contents'),
    ("out of range", tensor("UINT8", (1,), contents={"uint_contents": [256]}),
     'input "x0" has an element 256 in uint_contents, which is no UINT8; send what fits'),
    ("typed FP16", tensor("FP16", (1,), contents={}), 'input "x0" is FP16, which has no typed contents; send it raw'),
    ("typed BF16", tensor("BF16", (1,), contents={}), 'input "x0" is BF16, which has no typed contents; send it raw'),
    ("BYTES without lengths", texts(b"ab"), no_texts("element 0 of 2 has no length: 2 bytes are left")),
    ("BYTES of nothing", texts(b""), no_texts("element 0 of 2 has no length: 0 bytes are left")),
    ("BYTES cut in a length", texts(ONE + b"\1\0\0"), no_texts("element 1 of 2 has no length: 3 bytes are left")),
    ("BYTES cut in an element", texts(ONE + b"\2\0\0\0a"),
     no_texts("element 1 of 2 says that it has 2 bytes, 1 are left")),
    ("BYTES of 4 GiB", texts(b"\xff\xff\xff\xff" + bytes(8)),
     no_texts("element 0 of 2 says that it has 4294967295 bytes, 8 are left")),
    ("BYTES of 2 GiB", texts(ONE + b"\0\0\0\x80"),
     no_texts("element 1 of 2 says that it has 2147483648 bytes, 0 are left")),
    ("BYTES surplus", texts(ONE * 3), no_texts("5 bytes are left behind its 2 elements")),
    ("BYTES 2^40 x 2^40", texts(ONE, (2**40, 2**40)),
     mismatch(f"has shape {SQUARE}, whose size overflows; send the true shape", "texts")),
    ("BYTES 2^40", texts(ONE, (1, 2**40)),
     no_texts("element 1 of 1099511627776 has no length: 0 bytes are left", "[1, 1099511627776]")),
    ("BYTES for FP32", tensor("BYTES", (1, 64), ONE * 64), mismatch(f"{SIGNATURE} BYTES[1, 64]; {RESHAPE}")),
    ("few typed BYTES", texts(bytes_contents=[b"a"]), wrong_count("[1, 2]", "2 elements", 1, "bytes_contents")),
    ("typed BYTES 2^40", texts(None, (1, 2**40), bytes_contents=[b"a"]),
     wrong_count("[1, 1099511627776]", "1099511627776 elements", 1, "bytes_contents")),
    ("BYTES as numbers", texts(uint_contents=[1, 2]),
     'input "x0" is BYTES and has elements in field 4 of its contents; send all of them in bytes_contents'),
    ("output twice", with_outputs("y0", "y0"), 'output "y0" is asked for twice; name it once'),
    ("unknown output", with_outputs("y9"), 'output "y9" is unknown, echo returns y0; ask for these'),
    ("classes as text", with_outputs("y0", classification="3"), f'parameter `classification` of output "y0" {HALF}'),
    ("classes below 0", with_outputs("y0", classification=-1), f'parameter `classification` of output "y0" {HALF}'),
    ("timeout as text", with_parameters(timeout="1"), f"parameter `timeout` {HALF}"),
    ("timeout below 0", with_parameters(timeout=-1), f"parameter `timeout` {HALF}"),
    ("priority as bool", with_parameters(priority=True), f"parameter `priority` {HALF}"),
    ("start as number", with_parameters(sequence_start=1), "parameter `sequence_start` wants a bool"),
    ("sequence as bool", with_parameters(sequence_id=True), SEQUENCE_ID),
    ("long sequence", with_parameters(sequence_id="s" * 129), SEQUENCE_ID),
    ("start of none", with_parameters(sequence_start=True),
     "parameter `sequence_start` without `sequence_id`; name the sequence"),
    ("reserved", with_parameters(triton_magic=1),
     "parameter `triton_magic` is unknown, and names with `triton_` are reserved; leave it out"),
    ("no size", tensor("FP32", (1, 64), shared_memory_region="r"),
     'input "x0" lies in shared memory region "r" without its size; set shared_memory_byte_size'),
    ("no region", tensor("FP32", (1, 64), shared_memory_offset=0),
     'input "x0" has a place in shared memory without a region; set shared_memory_region'),
    ("region that is not there", tensor("FP32", (1, 64), **REGION),
     'shared memory region "r" is not registered on this node; register it first'),
    ("offset below 0", tensor("FP32", (1, 64), **REGION, shared_memory_offset=-1),
     f'parameter `shared_memory_offset` of input "x0" {HALF}'),
    ("contents in a region", tensor("FP32", (1, 64), contents={}, **REGION),
     'input "x0" has contents and lies in shared memory; choose one'),
    ("classes in a region", with_outputs("y0", classification=1, **REGION),
     'output "y0" is asked for as classes and in shared memory; choose one'),
]  # fmt: skip


@pytest.mark.parametrize(("message", "text"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS])
def test_a_bad_request_is_refused_with_its_reason(channel: grpc.Channel, message: bytes, text: str) -> None:
    refusal = refused(lambda: raw_method(channel, INFER)(message, timeout=10))
    assert (refusal.code, refusal.reason, refusal.text) == (*INVALID, text)


def test_a_stream_refuses_the_same_with_the_same_words(channel: grpc.Channel) -> None:
    messages = [message for case in REQUESTS for message in (case[1], GOOD)]
    stream = channel.stream_stream(STREAM_INFER, pass_bytes, ModelStreamInferResponse.FromString)
    answers = [answer.error_message for answer in stream(iter(messages), timeout=30)]
    assert answers == [text for case in REQUESTS for text in (case[2], "")]


def test_classes_of_what_has_no_order_are_refused(channel: grpc.Channel) -> None:
    message = ModelInferRequest(model_name="every-type")
    set_parameters(message.outputs.add(name="y0").parameters, {"classification": 1})
    refusal = refused(lambda: infer(channel, message))
    assert (refusal.code, refusal.reason) == INVALID
    assert 'output "y0" of every-type is BOOL, whose elements have no order to classify by' in refusal.text
    message = ModelInferRequest.FromString(texts(ONE * 2))
    set_parameters(message.outputs.add(name="y0").parameters, {"classification": 1})
    assert (
        'output "y0" of texts is BYTES, whose elements have no order' in refused(lambda: infer(channel, message)).text
    )


def test_unknown_models_and_methods_have_their_own_status(channel: grpc.Channel) -> None:
    unknown = refused(lambda: infer(channel, echo_infer(model="nobody")))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    method = raw_method(channel, "/inference.GRPCInferenceService/ModelExplain")
    assert refused(lambda: method(b"", timeout=10)).code is grpc.StatusCode.UNIMPLEMENTED


def test_the_refusal_names_the_request(channel: grpc.Channel) -> None:
    refusal = refused(lambda: infer(channel, echo_infer(id="r-7", model_version="x")))
    assert refusal.facts["request_id"] == "r-7"


def test_a_message_may_come_with_fields_of_a_later_version(channel: grpc.Channel) -> None:
    later = GOOD + b"\x98\x06\x01" + field(15, b"later")
    assert ModelInferResponse.FromString(raw_method(channel, INFER)(later, timeout=10)).model_name == "echo"
