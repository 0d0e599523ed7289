"""Tests of what a node tells tools about its protos."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from starling.predict.v1 import predict_service_pb2  # registers the service that is asked for

from services.predict.reflection import Reflection

SERVICE = predict_service_pb2.DESCRIPTOR.services_by_name["PredictService"].full_name
PREDICT, TENSOR = "starling/predict/v1/predict_service.proto", "starling/tensor/v1/tensor.proto"
DURATION = "google/protobuf/duration.proto"


def ask(**question: str) -> ServerReflectionResponse:
    return Reflection((SERVICE, "grpc.health.v1.Health")).answer(ServerReflectionRequest(host="here", **question))


def files(response: ServerReflectionResponse) -> list[str]:
    return [FileDescriptorProto.FromString(one).name for one in response.file_descriptor_response.file_descriptor_proto]


def test_services_are_listed_in_order() -> None:
    response = ask(list_services="*")
    assert [one.name for one in response.list_services_response.service] == ["grpc.health.v1.Health", SERVICE]
    assert response.valid_host == "here"
    assert response.original_request.list_services == "*"


@pytest.mark.parametrize(
    "symbol",
    [
        SERVICE,
        f"{SERVICE}.PredictStream",
        "starling.predict.v1.PredictRequest",
        "starling.predict.v1.PredictRequest.budget",
    ],
)
def test_a_symbol_brings_its_file_first_and_everything_it_imports(symbol: str) -> None:
    found = files(ask(file_containing_symbol=symbol))
    assert found[0] == PREDICT
    assert sorted(found) == sorted({PREDICT, TENSOR, DURATION})


def test_a_file_is_found_by_its_name() -> None:
    assert files(ask(file_by_filename=TENSOR)) == [TENSOR]


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"file_by_filename": "nobody.proto"}, "nobody.proto"),
        ({"file_containing_symbol": "starling.predict.v1.Nobody"}, "starling.predict.v1.Nobody"),
        ({"file_containing_symbol": f"{SERVICE}.Nobody"}, f"{SERVICE}.Nobody"),
        ({"file_containing_symbol": "Nobody"}, "Nobody"),
        ({"file_containing_symbol": ""}, "not found"),
        ({"all_extension_numbers_of_type": SERVICE}, "our messages have no extensions"),
        ({}, "an empty request"),
    ],
)
def test_what_is_not_there_is_an_answer_and_no_failure(question: dict[str, str], says: str) -> None:
    response = ask(**question)
    assert response.error_response.error_code == 5
    assert says in response.error_response.error_message
