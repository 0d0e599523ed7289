"""Tests of one method served from Python: bytes in, bytes or an error out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.predict.v1.model_service_pb2 import GetModelRequest, GetModelResponse, Model

from services.host import encode_error
from services.predict.control import MalformedMessage, Method

ECHO = Method(GetModelRequest, lambda asked: GetModelResponse(model=Model(name=asked.name, version=asked.version)))


def test_bytes_are_parsed_run_and_serialised() -> None:
    answer = ECHO.answer(GetModelRequest(name="nanodet", version=3).SerializeToString())
    assert GetModelResponse.FromString(answer).model == Model(name="nanodet", version=3)


def test_no_bytes_are_the_default_message() -> None:
    assert GetModelResponse.FromString(ECHO.answer(b"")).model == Model()


@pytest.mark.parametrize(
    "payload",
    [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff", b"\x02\x00", b"\x10" + b"\xff" * 11],
    ids=["cut tag", "cut string", "bad UTF-8", "field zero", "endless varint"],
)
def test_other_bytes_are_the_callers_mistake(payload: bytes) -> None:
    with pytest.raises(MalformedMessage) as caught:
        ECHO.answer(payload)
    assert str(caught.value).startswith("malformed starling.predict.v1.GetModelRequest: ")
    assert str(caught.value).endswith("; send a message made from our protos")
    assert encode_error(caught.value).code == 3


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(payload: bytes) -> None:
    try:
        answer = ECHO.answer(payload)
    except MalformedMessage:
        return
    assert GetModelResponse.FromString(answer).model.name == GetModelRequest.FromString(payload).name


def test_what_the_method_raises_passes_through() -> None:
    def fail(asked: GetModelRequest) -> GetModelResponse:
        raise KeyError(asked.name)

    with pytest.raises(KeyError, match="nanodet"):
        Method(GetModelRequest, fail).answer(GetModelRequest(name="nanodet").SerializeToString())
