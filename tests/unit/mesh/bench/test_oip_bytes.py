"""Requests are what the protocol says, byte for byte; responses are read back or refused."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mesh.bench.oip_bytes import OipMalformed, read_infer_response, write_infer_request

# Decoded by hand: tag is number << 3 | 2, then the length, then the content.
REQUEST = bytes.fromhex(
    "0a 01 6d"  # model_name 1: "m"
    "2a 0d"  # inputs 5, 13 bytes
    "  0a 01 78"  # name 1: "x"
    "  12 04 46503332"  # datatype 2: "FP32"
    "  1a 02 01 02"  # shape 3, packed: 1, 2
    "3a 08 0000803f 000000c0"  # raw_input_contents 7: 1.0, -2.0
)
RESPONSE = bytes.fromhex(
    "0a 01 6d"  # model_name 1
    "12 01 31"  # model_version 2: "1"
    "2a 0e 0a 01 79 12 05 494e543332 1a 02 03 01"  # outputs 5: "y" INT32 [3, 1]
    "32 0c 01000000 02000000 ffffffff"  # raw_output_contents 6
)


def test_a_request_is_what_the_protocol_says() -> None:
    assert write_infer_request("m", {"x": np.array([[1, -2]], np.float32)}) == REQUEST


def test_a_response_gives_its_outputs() -> None:
    (name, values), *rest = read_infer_response(RESPONSE).items()
    assert (name, values.dtype, values.tolist(), rest) == ("y", np.dtype(np.int32), [[1], [2], [-1]], [])


def test_shapes_may_be_written_one_by_one() -> None:
    unpacked = RESPONSE.replace(bytes.fromhex("1a020301"), bytes.fromhex("18031801"))
    assert read_infer_response(unpacked)["y"].shape == (3, 1)


def test_inputs_keep_their_order_and_large_numbers_their_groups() -> None:
    inputs: dict[str, NDArray[Any]] = {"b": np.zeros((1, 300), np.uint8), "a": np.ones((2, 1), np.int32)}
    message = write_infer_request("m", inputs)
    assert message.index(b"\x0a\x01b") < message.index(b"\x0a\x01a")
    assert bytes.fromhex("1a0301ac02") in message
    assert message.endswith(b"\x3a\x08" + np.ones(2, "<i4").tobytes())


def test_big_endian_arrays_are_written_little_endian() -> None:
    assert write_infer_request("m", {"x": np.array([[1, -2]], ">f4")}) == REQUEST


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (RESPONSE[:-14], "1 outputs with 0 raw contents"),
        (RESPONSE[:-14] + b"\x32\x00", "in 0 bytes"),
        (RESPONSE.replace(b"INT32", b"BYTES"), "BYTES[3, 1] in 12 bytes"),
        (RESPONSE[:-1], "12 bytes with 11 left"),
        (b"\x0b", "wire type 3"),
        (b"\x80", "does not end"),
        (b"\xff" * 12, "does not end"),
    ],
)
def test_a_bad_response_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(OipMalformed) as caught:
        read_infer_response(data)
    assert says in str(caught.value)


@given(st.integers(0, len(RESPONSE) - 1), st.binary(max_size=4))
def test_a_damaged_response_is_read_or_refused(at: int, damage: bytes) -> None:
    with contextlib.suppress(OipMalformed):  # Anything else fails the test.
        read_infer_response(RESPONSE[:at] + damage + RESPONSE[at + len(damage) :])
