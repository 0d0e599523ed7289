"""A real gRPC server on a free loopback port that answers as each test tells it to."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
import pytest
from starling.predict.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from starling.predict.v1.predict_service_pb2 import (
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
    Timing,
)

from services.host import encode_error

Answer = Callable[[PredictRequest], bytes]
StreamAnswer = Callable[[Iterator[PredictRequest]], Iterator[bytes]]


@dataclass(frozen=True)
class Trailers(grpc.Status):
    """A status with its trailers, as `ServicerContext.abort_with_status` wants it."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, bytes], ...]


def echo(request: PredictRequest) -> bytes:
    """Answers with the inputs."""
    return PredictResponse(
        model_name=request.model_name,
        model_version=request.model_version or 7,
        request_id=request.request_id,
        outputs=request.inputs,
        node="edge-0",
        timing=Timing(queue_us=10, compute_us=20, total_us=35, batch_size=2),
    ).SerializeToString()


def echo_stream(requests: Iterator[PredictRequest]) -> Iterator[bytes]:
    """Answers each request of a stream with its inputs."""
    for request in requests:
        answer = PredictResponse.FromString(echo(request))
        yield PredictStreamResponse(response=answer).SerializeToString()


@dataclass
class FakeNode:
    """What the server does, and what it saw."""

    answer: Answer = echo
    answer_stream: StreamAnswer = echo_stream
    target: str = ""
    requests: list[PredictRequest] = field(default_factory=list)
    metadata: dict[str, str | bytes] = field(default_factory=dict)
    remaining_s: float = 0.0
    cancelled: threading.Event = field(default_factory=threading.Event)

    def predict(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        """Serves Predict: bytes in, bytes out, errors through the product's own door."""
        self.metadata = dict(context.invocation_metadata())
        self.remaining_s = context.time_remaining() or 0.0
        request = PredictRequest.FromString(data)
        self.requests.append(request)
        try:
            return self.answer(request)
        except Exception as error:
            abort(context, error)

    def predict_stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serves PredictStream."""
        context.add_callback(self.cancelled.set)
        self.metadata = dict(context.invocation_metadata())

        def read() -> Iterator[PredictRequest]:
            for data in messages:
                request = PredictStreamRequest.FromString(data).request
                self.requests.append(request)
                yield request

        try:
            yield from self.answer_stream(read())
        except grpc.RpcError:
            raise
        except Exception as error:
            abort(context, error)


def abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """Ends a call with the status of an error."""
    wire = encode_error(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == wire.code)
    context.abort_with_status(Trailers(code, wire.message, (("grpc-status-details-bin", wire.details),)))


@dataclass
class Serve:
    """Starts servers for one test and stops them after it."""

    servers: list[grpc.Server] = field(default_factory=list)

    def __call__(self, models: ModelServiceServicer | None = None) -> FakeNode:
        """Returns a node that listens."""
        node = FakeNode()
        server = grpc.server(
            ThreadPoolExecutor(4),
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        methods = {
            "Predict": grpc.unary_unary_rpc_method_handler(node.predict),
            "PredictStream": grpc.stream_stream_rpc_method_handler(node.predict_stream),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("starling.predict.v1.PredictService", methods),)
        )
        if models is not None:
            add_ModelServiceServicer_to_server(models, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.servers.append(server)
        node.target = f"127.0.0.1:{port}"
        return node


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts fake nodes; all are gone when the test is."""
    serve = Serve()
    yield serve
    for server in serve.servers:
        server.stop(grace=None).wait(timeout=10)


@pytest.fixture
def node(serve: Serve) -> FakeNode:
    """One fake node that echoes."""
    return serve()
