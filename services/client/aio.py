"""The asyncio client, for agents with a control loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from contextlib import aclosing
from random import Random
from types import TracebackType
from typing import Any, Self

import grpc
from starling.predict.v1 import model_service_pb2 as pb
from starling.predict.v1.model_service_pb2_grpc import ModelServiceStub

from .channel import (
    PREDICT,
    PREDICT_STREAM,
    Metadata,
    add_authorization,
    build_metadata,
    build_options,
    check_credentials,
    check_deadline,
    check_target,
    left_until,
    name_model,
    pass_bytes,
)
from .codec import decode_response, encode_request
from .errors import Cancelled, StarlingError, Unavailable
from .fallback import Fallback, SimilarFrame
from .models import ModelInfo, read_model
from .outbox import explain_end
from .retry import RetryPolicy
from .status import translate_rpc_error
from .stream import run_stream
from .tls import Tls
from .values import Array, Prediction, PredictionError, Request


class AsyncClient:
    """A connection to a gateway or a node, used from one event loop.

    Every method does what its namesake in `Client` does.

    >>> async with AsyncClient("127.0.0.1:50051") as client:                # doctest: +SKIP
    ...     (await client.predict("nanodet", {"frame": frame[None]}, deadline_s=0.1))["boxes"]
    """

    def __init__(
        self,
        target: str,
        *,
        agent_id: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        tls: Tls | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Prepares the connection; nothing is sent yet. Arguments and errors as for `Client`."""
        self._target = check_target(target)
        self._metadata = build_metadata(agent_id)
        self._tls = tls
        self._retry = retry
        self._rng = Random()
        given = check_credentials(credentials, tls)
        options = build_options(tls)
        if given is None:
            self._channel: Any = grpc.aio.insecure_channel(self._target, options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, given, options)
        self._predict = self._channel.unary_unary(PREDICT, pass_bytes, pass_bytes)
        self._predict_stream = self._channel.stream_stream(PREDICT_STREAM, pass_bytes, pass_bytes)
        self._models: Any = ModelServiceStub(self._channel)

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        deadline_s: float = 1.0,
        version: int = 0,
        label: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        stream_id: str = "",
        sequence: int = 0,
        priority: int = 0,
        budget_s: float | None = None,
        cache: SimilarFrame | None = None,
        allow: Sequence[Fallback] = (),
        sequence_id: str = "",
        sequence_start: bool = False,
        sequence_end: bool = False,
    ) -> Prediction:
        """Returns the model's answer; see `Client.predict`."""
        request = Request(
            model=model,
            inputs=inputs,
            version=version,
            label=label,
            outputs=tuple(outputs),
            request_id=request_id,
            stream_id=stream_id,
            sequence=sequence,
            priority=priority,
            budget_s=budget_s,
            cache=cache,
            allow=tuple(allow),
            sequence_id=sequence_id,
            sequence_start=sequence_start,
            sequence_end=sequence_end,
        )
        return await self.send(request, deadline_s=deadline_s)

    async def send(self, request: Request, *, deadline_s: float = 1.0) -> Prediction:
        """Returns the answer to a request; raises what `predict` raises."""
        data = encode_request(request)
        left_s = check_deadline(deadline_s)
        end_s = time.monotonic() + left_s
        attempt = 1
        while True:
            start_s = time.monotonic()
            try:
                reply = await self._call(self._predict, data, left_s, self._name(request))
                break
            except StarlingError as error:
                wait_s = self._get_wait_s(error, attempt, end_s - time.monotonic(), bool(request.sequence_id))
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            left_s = left_until(end_s)
            attempt += 1
        return decode_response(reply, round((time.monotonic() - start_s) * 1e6))

    async def predict_stream(
        self,
        requests: AsyncIterable[Request],
        *,
        in_flight_max: int = 16,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[Prediction | PredictionError, None]:
        """Yields one answer or refusal per request, in the order of the requests.

        The stream lives until `requests` ends and all are answered. Close the iterator (`aclose`,
        or leave the task) to end it sooner; calls that are under way are then cancelled.

        The first request says which node: one that has its model. When that node drains or is lost, the stream goes on
        at another one with what was not answered yet, so that no answer is missing and none comes twice. Only a step of
        a sequence that was sent to a lost node ends the stream: nobody knows whether it was taken.

        Args:
            requests: read as fast as answers come, never more than `in_flight_max` ahead.
            in_flight_max: most requests without an answer; also bounds the memory held.
            deadline_s: seconds for the whole stream; None means no limit. A single request is
                bounded by its own `budget_s`.

        Raises:
            StarlingError: the stream as a whole ended early.
        """
        limit_s = None if deadline_s is None else check_deadline(deadline_s)
        end_s = None if limit_s is None else time.monotonic() + limit_s

        def open_call(first: Request) -> Any:
            left_s = None if end_s is None else left_until(end_s)
            return self._predict_stream(timeout=left_s, metadata=self._name(first))

        def explain(error: grpc.RpcError) -> StarlingError:
            return explain_end(error, self._target, limit_s or 0.0)

        try:
            answers = run_stream(open_call, explain, requests, in_flight_max=in_flight_max, end_s=end_s)
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        except grpc.aio.UsageError as error:
            raise self._explain_closed(error) from error

    async def models(self, name: str = "", *, deadline_s: float = 5.0) -> tuple[ModelInfo, ...]:
        """Returns every model version of the node; see `Client.models`."""
        request = pb.ListModelsRequest(name=name)
        reply = await self._call(self._models.ListModels, request, deadline_s)
        return tuple(read_model(model) for model in reply.models)

    async def model(self, name: str, version: int = 0, *, deadline_s: float = 5.0) -> ModelInfo:
        """Returns one model version; see `Client.model`."""
        request = pb.GetModelRequest(name=name, version=version)
        return read_model((await self._call(self._models.GetModel, request, deadline_s)).model)

    async def load(self, name: str, version: int = 0, *, deadline_s: float = 120.0) -> ModelInfo:
        """Loads and warms up a model version; see `Client.load`."""
        request = pb.LoadModelRequest(name=name, version=version)
        return read_model((await self._call(self._models.LoadModel, request, deadline_s)).model)

    async def unload(self, name: str, version: int = 0, *, deadline_s: float = 30.0) -> tuple[ModelInfo, ...]:
        """Drains and frees a model version, or every version; see `Client.unload`."""
        request = pb.UnloadModelRequest(name=name, version=version)
        reply = await self._call(self._models.UnloadModel, request, deadline_s)
        return tuple(read_model(model) for model in reply.models)

    async def wait_until_connected(self, *, deadline_s: float = 10.0) -> None:
        """Waits for a connection; see `Client.wait_until_connected`."""
        try:
            async with asyncio.timeout(check_deadline(deadline_s)):
                await self._channel.channel_ready()
        except TimeoutError:
            text = f"cannot reach {self._target} within {deadline_s:g} s; check that it is up"
            raise Unavailable(text) from None

    async def close(self) -> None:
        """Ends the connection and every call on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Returns the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        await self.close()

    def __repr__(self) -> str:
        """Returns the client as an operator reads it."""
        retry = "" if self._retry is None else f" {self._retry}"
        return f"<AsyncClient {self._target}{retry}>"

    def _get_wait_s(self, error: StarlingError, attempt: int, left_s: float, is_step: bool) -> float | None:
        if self._retry is None:
            return None
        return self._retry.get_wait_s(error, attempt=attempt, left_s=left_s, rng=self._rng, is_step=is_step)

    def _explain_closed(self, error: Exception) -> Unavailable:
        return Unavailable(f"the client for {self._target} is closed: {error}")

    def _name(self, request: Request) -> Metadata:
        return name_model(add_authorization(self._metadata, self._tls), request)

    async def _call(self, method: Any, request: object, deadline_s: float, metadata: Metadata | None = None) -> Any:
        """Returns the reply of one unary call.

        Raises:
            StarlingError: for every way in which gRPC fails.
            asyncio.CancelledError: the task that waits was cancelled.
        """
        deadline_s = check_deadline(deadline_s)
        try:
            if metadata is None:
                metadata = add_authorization(self._metadata, self._tls)
            return await method(request, timeout=deadline_s, metadata=metadata)
        except grpc.RpcError as error:
            raise translate_rpc_error(error, target=self._target, deadline_s=deadline_s) from error
        except grpc.aio.UsageError as error:
            raise self._explain_closed(error) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # somebody cancelled us, not the call
            raise Cancelled(f"the client for {self._target} was closed during the call") from error
