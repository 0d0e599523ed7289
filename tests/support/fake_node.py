"""A node without an engine: speaks the node's protos, answers after a settable time.

It takes the node's command line and prints the node's ready line, so that the mesh can be tested
without native code.
Two files in its repository steer it while it runs: `NAME.latency_ms` and `NAME.reject`; the latter may hold the
reason that refusals carry. It writes the headers of the last request to `NAME.seen`, and how many came to `NAME.calls`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starling.mesh.v1 import node_service_pb2, node_service_pb2_grpc
from starling.predict.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    predict_service_pb2,
    predict_service_pb2_grpc,
)
from starling.tensor.v1 import tensor_pb2

_BOXES_MAX = 100
_LINGER_S = 0.5
_REGISTER_EVERY_S = 0.3
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.so_reuseport", 0),
    # As a real one, it may be asked at any time whether it is there.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
]


class FakePredict(predict_service_pb2_grpc.PredictServiceServicer):
    """Finds one box in every frame; one engine, and a bounded queue before it."""

    def __init__(self, name: str, repository: Path, latency_ms: float, queue_max: int) -> None:
        self.name = name
        self.repository = repository
        self.latency_ms = latency_ms
        self.queue_max = queue_max
        self.draining = False
        self.waiting = 0
        self.calls = 0
        self._engine = asyncio.Lock()

    async def Predict(  # noqa: N802
        self,
        request: predict_service_pb2.PredictRequest,
        context: grpc.aio.ServicerContext[predict_service_pb2.PredictRequest, predict_service_pb2.PredictResponse],
    ) -> predict_service_pb2.PredictResponse:
        """Answers one request."""
        arrived = time.monotonic()
        self._write_seen(context)
        if self.draining:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{self.name} is draining")
        fails = self.repository / f"{self.name}.fails"
        if fails.exists():
            await context.abort(grpc.StatusCode[fails.read_text()], f"{self.name} was told to fail")
        reject = self.repository / f"{self.name}.reject"
        if self.waiting >= self.queue_max or reject.exists():
            await _refuse(context, f"{self.name} is full", reject.read_text() if reject.exists() else "")
        self.waiting += 1
        try:
            async with self._engine:
                started = time.monotonic()
                await asyncio.sleep(self._read_latency_ms() / 1e3)
        finally:
            self.waiting -= 1
        done = time.monotonic()
        (frame,) = request.inputs
        _, height, width, _ = frame.shape
        boxes = np.zeros((1, _BOXES_MAX, 4), np.float32)
        boxes[0, 0] = (width * 0.25, height * 0.25, width * 0.75, height * 0.75)
        scores = np.zeros((1, _BOXES_MAX), np.float32)
        scores[0, 0] = 0.9
        classes = np.zeros((1, _BOXES_MAX), np.int32)
        response = predict_service_pb2.PredictResponse(
            model_name=request.model_name,
            model_version=1,
            request_id=request.request_id,
            node=self.name,
            outputs=[
                _tensor("boxes", boxes, tensor_pb2.DATA_TYPE_FP32),
                _tensor("scores", scores, tensor_pb2.DATA_TYPE_FP32),
                _tensor("classes", classes, tensor_pb2.DATA_TYPE_INT32),
                _tensor("count", np.ones(1, np.int32), tensor_pb2.DATA_TYPE_INT32),
            ],
        )
        response.timing.queue_us = int((started - arrived) * 1e6)
        response.timing.compute_us = int((done - started) * 1e6)
        response.timing.total_us = int((done - arrived) * 1e6)
        response.timing.predicted_us = response.timing.total_us + 1000
        response.timing.batch_size = 1
        return response

    def _write_seen(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.calls += 1
        self._write("seen", json.dumps(headers))
        self._write("calls", str(self.calls))

    def _write(self, what: str, text: str) -> None:
        """Replaces a file in one step: whoever reads it sees all of it."""
        following = self.repository / f"{self.name}.next"
        following.write_text(text)
        following.replace(self.repository / f"{self.name}.{what}")

    def _read_latency_ms(self) -> float:
        try:
            return float((self.repository / f"{self.name}.latency_ms").read_text())
        except (FileNotFoundError, ValueError):
            return self.latency_ms


class FakeModels(model_service_pb2_grpc.ModelServiceServicer):
    """Knows the models it was told."""

    def __init__(self, names: list[str]) -> None:
        self._models = [
            model_service_pb2.Model(
                name=name,
                version=1,
                state=model_service_pb2.MODEL_STATE_READY,
                outputs=[
                    tensor_pb2.TensorSpec(name="boxes", dims=[_BOXES_MAX, 4]),
                    tensor_pb2.TensorSpec(name="scores", dims=[_BOXES_MAX]),
                    tensor_pb2.TensorSpec(name="classes", dims=[_BOXES_MAX], labels=["person", "bicycle", "car"]),
                ],
            )
            for name in names
        ]

    async def ListModels(  # noqa: N802
        self,
        request: model_service_pb2.ListModelsRequest,
        context: grpc.aio.ServicerContext[model_service_pb2.ListModelsRequest, model_service_pb2.ListModelsResponse],
    ) -> model_service_pb2.ListModelsResponse:
        """Lists the models."""
        return model_service_pb2.ListModelsResponse(models=self._models)

    async def GetModel(  # noqa: N802
        self,
        request: model_service_pb2.GetModelRequest,
        context: grpc.aio.ServicerContext[model_service_pb2.GetModelRequest, model_service_pb2.GetModelResponse],
    ) -> model_service_pb2.GetModelResponse:
        """Describes one model."""
        for model in self._models:
            if model.name == request.name:
                return model_service_pb2.GetModelResponse(model=model)
        await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
        raise AssertionError("abort raises")


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], text: str, reason: str) -> None:
    """Ends a call as a full node does, with the details that go with a reason."""
    code = grpc.StatusCode.ABORTED if reason == "SUPERSEDED" else grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_pb2.Status(code=code.value[0], message=text)
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(domain="starling", reason=reason))
    await context.abort(code, text, (("grpc-status-details-bin", status.SerializeToString()),))


def _tensor(name: str, array: np.ndarray, data_type: tensor_pb2.DataType.ValueType) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(name=name, data_type=data_type, shape=array.shape, data=array.tobytes())


class FakeRegistration:
    """Keeps the node known to a control plane, as a real one does."""

    def __init__(self, stub: Any, node: node_service_pb2.Node, stop: asyncio.Event) -> None:
        self._stub, self._node, self._stop = stub, node, stop
        self._request_id = f"{node.name}-{time.monotonic_ns()}"
        self._lease_id = ""
        self._registered = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @classmethod
    async def start(cls, arguments: argparse.Namespace, address: str, stop: asyncio.Event) -> FakeRegistration:
        """Registers, which may take a moment; a control plane that is not there is tried again and again."""
        node = node_service_pb2.Node(
            name=arguments.name,
            tier=node_service_pb2.Tier.Value(f"TIER_{arguments.tier.upper()}"),
            grpc_address=arguments.advertise or address,
            models=[
                node_service_pb2.NodeModel(name=name, version=1, ready=True)
                for name in arguments.model or ["nanodet-small"]
            ],
        )
        stub = node_service_pb2_grpc.NodeServiceStub(_connect(arguments))
        self = cls(stub, node, stop)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._registered.wait(), 2)
        return self

    async def leave(self) -> None:
        """Says good-bye."""
        self._task.cancel()
        with suppress(grpc.aio.AioRpcError):
            request = node_service_pb2.DeregisterNodeRequest(lease_id=self._lease_id)
            await self._stub.DeregisterNode(request, timeout=1)

    async def _run(self) -> None:
        while True:
            with suppress(grpc.aio.AioRpcError):
                request = node_service_pb2.RegisterNodeRequest(node=self._node, request_id=self._request_id)
                response = await self._stub.RegisterNode(request, timeout=1)
                self._lease_id = response.lease_id
                self._registered.set()
                await self._report(response.report_period.ToNanoseconds() / 1e9)
            await asyncio.sleep(_REGISTER_EVERY_S)

    async def _report(self, period_s: float) -> None:
        async def reports() -> AsyncIterator[node_service_pb2.ReportLoadRequest]:
            header = node_service_pb2.ReportLoadHeader(lease_id=self._lease_id)
            yield node_service_pb2.ReportLoadRequest(header=header)
            while True:
                yield node_service_pb2.ReportLoadRequest(report=node_service_pb2.LoadReport())
                await asyncio.sleep(period_s)

        async for response in self._stub.ReportLoad(reports()):
            if response.WhichOneof("message") == "order" and response.order.WhichOneof("action") == "drain":
                self._stop.set()


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM, then drains as a node does."""
    server = grpc.aio.server(options=_OPTIONS)
    models = arguments.model or ["nanodet-small"]
    # Methods that are not written here answer UNIMPLEMENTED.
    predict = FakePredict(  # type: ignore[abstract]
        arguments.name, Path(arguments.repository), arguments.latency_ms, arguments.queue_max
    )
    models_service = FakeModels(models)  # type: ignore[abstract]
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]
    predict_service_pb2_grpc.add_PredictServiceServicer_to_server(predict, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models_service, server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    services = [
        predict_service_pb2.DESCRIPTOR.services_by_name["PredictService"].full_name,
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    ]
    reflection.enable_server_reflection(services, server)
    port = _listen(server, arguments)
    await server.start()
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    host = arguments.grpc.rpartition(":")[0]
    registration = None
    if arguments.control:
        registration = await FakeRegistration.start(arguments, f"{host}:{port}", stop)
    facts = f"grpc={host}:{port} metrics={host}:0"
    print(f"ready {facts} models={','.join(f'{m}:1' for m in models)}", flush=True)
    await stop.wait()
    if registration is not None:
        await registration.leave()
    predict.draining = True
    await status.enter_graceful_shutdown()
    # Go on refusing until callers have seen the health change: a stopping server cancels instead.
    await asyncio.sleep(_LINGER_S)
    await server.stop(grace=2.0)


def _connect(arguments: argparse.Namespace) -> grpc.aio.Channel:
    if arguments.tls_cert is None:
        return grpc.aio.insecure_channel(arguments.control)
    pem = [Path(path).read_bytes() for path in (arguments.tls_client_ca, arguments.tls_key, arguments.tls_cert)]
    return grpc.aio.secure_channel(arguments.control, grpc.ssl_channel_credentials(*pem))


def _listen(server: grpc.aio.Server, arguments: argparse.Namespace) -> int:
    if arguments.tls_cert is None:
        return server.add_insecure_port(arguments.grpc)
    key, certificate, ca = (
        Path(path).read_bytes() for path in (arguments.tls_key, arguments.tls_cert, arguments.tls_client_ca)
    )
    credentials = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
    return server.add_secure_port(arguments.grpc, credentials)


def main() -> int:
    """Reads the node's flags; a model named `corrupt` ends the start as a bad file would."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--metrics")
    parser.add_argument("--control")
    parser.add_argument("--advertise")
    parser.add_argument("--repository", required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--latency-ms", type=float, default=5.0)
    parser.add_argument("--queue-max", type=int, default=16)
    for flag in ("--tls-cert", "--tls-key", "--tls-client-ca"):
        parser.add_argument(flag)
    parser.add_argument("--tls-client", action="append")
    arguments = parser.parse_args()
    if "corrupt" in (arguments.model or []):
        print("corrupt:1 model.onnx is not what its manifest says", file=sys.stderr)
        return 1
    asyncio.run(serve(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
