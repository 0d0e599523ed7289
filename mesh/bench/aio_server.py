"""The echo model served the usual way, on grpc.aio with protobuf objects: what `unary` compares against."""

from __future__ import annotations

import asyncio

import grpc
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse
from starling.predict.v1.predict_service_pb2_grpc import (
    PredictServiceServicer,
    add_PredictServiceServicer_to_server,
)


class EchoServicer(PredictServiceServicer):
    """Returns the inputs as outputs."""

    async def Predict(  # noqa: N802 - the generated name
        self, request: PredictRequest, context: grpc.aio.ServicerContext[PredictRequest, PredictResponse]
    ) -> PredictResponse:
        """Answers one request with its own tensors."""
        del context
        response = PredictResponse(model_name=request.model_name, model_version=1, node="aio")
        for tensor in request.inputs:
            response.outputs.add(name="y", data_type=tensor.data_type, shape=tensor.shape, data=tensor.data)
        response.timing.batch_size = 1
        return response


async def _serve() -> None:
    server = grpc.aio.server()
    # PredictStream is not measured and answers UNIMPLEMENTED.
    add_PredictServiceServicer_to_server(EchoServicer(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
