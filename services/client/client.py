"""The blocking client, for threads and scripts."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from random import Random
from types import TracebackType
from typing import Any, Self

import grpc
from starling.predict.v1 import model_service_pb2 as pb
from starling.predict.v1.model_service_pb2_grpc import ModelServiceStub

from .blocking_stream import run_blocking_stream
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
from .tls import Tls
from .values import Array, Prediction, PredictionError, Request


class Client:
    """A connection to a gateway or a node. Thread-safe; connects with the first call.

    >>> with Client("127.0.0.1:50051") as client:                           # doctest: +SKIP
    ...     client.predict("nanodet", {"frame": frame[None]}, deadline_s=0.1)["boxes"]
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
        """Prepares the connection; nothing is sent yet.

        Args:
            target: `HOST:PORT` of a gateway or a node, or any gRPC target.
            agent_id: who calls; the gateway sends calls of one agent to the same node if it can.
            credentials: gRPC's own, for whatever `tls` does not cover; plain text without either.
            tls: certificates to connect with, and the token to send.
            retry: when to try again; never without it.

        Raises:
            InvalidInput: the target, the agent's id or a file of `tls` cannot be used.
        """
        self._target = check_target(target)
        self._metadata = build_metadata(agent_id)
        self._tls = tls
        self._retry = retry
        self._rng = Random()
        self._closed = False
        given = check_credentials(credentials, tls)
        options = build_options(tls)
        if given is None:
            self._channel = grpc.insecure_channel(self._target, options)
        else:
            self._channel = grpc.secure_channel(self._target, given, options)
        # Bytes in, bytes out: the codec decides about copies and about malformed replies.
        self._predict = self._channel.unary_unary(PREDICT, pass_bytes, pass_bytes)
        self._predict_stream = self._channel.stream_stream(PREDICT_STREAM, pass_bytes, pass_bytes)
        self._models = ModelServiceStub(self._channel)

    def predict(
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
        """Returns the model's answer.

        Args:
            model: name as in the repository.
            inputs: every input of the model by name; dimension 0 is the batch.
            deadline_s: seconds for the whole call, retries included.
            version: version to run; 0 means the highest one that is loaded.
            label: version to run by the label that an operator has given it, such as `canary`; empty means none.
            outputs: names of the outputs wanted; empty means all.
            request_id: echoed in the answer.
            stream_id: stream that the request belongs to, such as one camera.
            sequence: position in the stream.
            priority: 0 to 3; larger is more urgent.
            budget_s: seconds the answer may take from arrival at the node; None means: the deadline.
            cache: when the answer to an earlier frame of the stream will do; None means: never.
            allow: what else will do, best first: names of smaller models, `SimilarFrame`, `LastValue`; at most 4.
            sequence_id: sequence whose state it goes on with, for a model that keeps state, such as one microphone.
            sequence_start: whether it is the first step; the state begins with zeros.
            sequence_end: whether it is the last step; the state is freed with the answer.

        Raises:
            StarlingError: a subclass says what went wrong, see `services.client.errors`.
        """
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
        return self.send(request, deadline_s=deadline_s)

    def send(self, request: Request, *, deadline_s: float = 1.0) -> Prediction:
        """Returns the answer to a request; raises what `predict` raises."""
        data = encode_request(request)
        left_s = check_deadline(deadline_s)
        end_s = time.monotonic() + left_s
        attempt = 1
        while True:
            start_s = time.monotonic()
            try:
                reply = self._call(self._predict, data, left_s, self._name(request))
                break
            except StarlingError as error:
                wait_s = self._get_wait_s(error, attempt, end_s - time.monotonic(), bool(request.sequence_id))
                if wait_s is None:
                    raise
            time.sleep(wait_s)
            left_s = left_until(end_s)
            attempt += 1
        return decode_response(reply, round((time.monotonic() - start_s) * 1e6))

    def predict_stream(
        self,
        requests: Iterable[Request],
        *,
        in_flight_max: int = 16,
        deadline_s: float | None = None,
    ) -> Generator[Prediction | PredictionError, None, None]:
        """Yields one answer or refusal per request, in the order of the requests; see `AsyncClient.predict_stream`.

        Leave the loop, or `close` the iterator, to end it sooner.

        Args:
            requests: read by a thread of its own, as fast as answers come; one that waits for its next request when the
                stream ends keeps that thread until it has come.
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
            metadata: Any = self._name(first)

            def start(messages: Iterator[bytes]) -> Any:
                try:
                    return self._predict_stream(messages, timeout=left_s, metadata=metadata)
                except ValueError as error:  # what grpcio raises on a closed channel
                    raise self._explain_closed(error) from error

            return start

        def explain(error: grpc.RpcError) -> StarlingError:
            if self._closed:
                return Cancelled("the client was closed during the stream")
            return explain_end(error, self._target, limit_s or 0.0)

        with closing(
            run_blocking_stream(open_call, explain, requests, in_flight_max=in_flight_max, end_s=end_s)
        ) as answers:
            yield from answers

    def models(self, name: str = "", *, deadline_s: float = 5.0) -> tuple[ModelInfo, ...]:
        """Returns every model version of the node, by name and version; only one name if given."""
        reply = self._call(self._models.ListModels, pb.ListModelsRequest(name=name), deadline_s)
        return tuple(read_model(model) for model in reply.models)

    def model(self, name: str, version: int = 0, *, deadline_s: float = 5.0) -> ModelInfo:
        """Returns one model version; 0 means the highest one that is ready, else the highest one.

        Raises:
            ModelNotFound: the node has no such version.
        """
        request = pb.GetModelRequest(name=name, version=version)
        return read_model(self._call(self._models.GetModel, request, deadline_s).model)

    def load(self, name: str, version: int = 0, *, deadline_s: float = 120.0) -> ModelInfo:
        """Loads and warms up a model version; returns when it serves. 0 means the highest one.

        Raises:
            ModelNotFound: the node has no such version.
            FailedPrecondition: it cannot be loaded, such as when it is corrupt.
        """
        request = pb.LoadModelRequest(name=name, version=version)
        return read_model(self._call(self._models.LoadModel, request, deadline_s).model)

    def unload(self, name: str, version: int = 0, *, deadline_s: float = 30.0) -> tuple[ModelInfo, ...]:
        """Drains and frees a model version, or every version when it is 0; returns those."""
        request = pb.UnloadModelRequest(name=name, version=version)
        reply = self._call(self._models.UnloadModel, request, deadline_s)
        return tuple(read_model(model) for model in reply.models)

    def wait_until_connected(self, *, deadline_s: float = 10.0) -> None:
        """Waits for a connection.

        Raises:
            Unavailable: there is none by the deadline.
        """
        try:
            grpc.channel_ready_future(self._channel).result(check_deadline(deadline_s))
        except grpc.FutureTimeoutError:
            text = f"cannot reach {self._target} within {deadline_s:g} s; check that it is up"
            raise Unavailable(text) from None

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        """Returns the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        self.close()

    def __repr__(self) -> str:
        """Returns the client as an operator reads it."""
        retry = "" if self._retry is None else f" {self._retry}"
        return f"<Client {self._target}{retry}>"

    def _get_wait_s(self, error: StarlingError, attempt: int, left_s: float, is_step: bool) -> float | None:
        if self._retry is None:
            return None
        return self._retry.get_wait_s(error, attempt=attempt, left_s=left_s, rng=self._rng, is_step=is_step)

    def _explain_closed(self, error: Exception) -> Unavailable:
        return Unavailable(f"the client for {self._target} is closed: {error}")

    def _name(self, request: Request) -> Metadata:
        return name_model(add_authorization(self._metadata, self._tls), request)

    def _call(self, method: Any, request: object, deadline_s: float, metadata: Metadata | None = None) -> Any:
        """Returns the reply of one unary call.

        Raises:
            StarlingError: for every way in which gRPC fails.
        """
        deadline_s = check_deadline(deadline_s)
        try:
            if metadata is None:
                metadata = add_authorization(self._metadata, self._tls)
            return method(request, timeout=deadline_s, metadata=metadata)
        except grpc.RpcError as error:
            raise translate_rpc_error(error, target=self._target, deadline_s=deadline_s) from error
        except ValueError as error:  # what grpcio raises on a closed channel
            raise self._explain_closed(error) from error
