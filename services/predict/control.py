"""Serves the methods that are not hot: takes calls from the native server and answers them in a few threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from services.host import describe_error, encode_error
from services.predict._dataplane import ControlCall, Server

_POLL_S = 0.5
# Loading a model may take seconds; three other callers still get answers meanwhile.
_WORKERS = 4
_log = logging.getLogger(__name__)


class MalformedMessage(Exception):
    """The bytes of a request are not a message of the method's type."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"


@dataclass(frozen=True, slots=True)
class Method:
    """One method served by Python; `streams` when each message of a stream is answered by one message."""

    request: type[Message]
    run: Callable[..., Message]
    streams: bool = False

    def answer(self, payload: bytes) -> bytes:
        """Returns the serialised response.

        Raises:
            MalformedMessage: the payload does not parse.
        """
        message = self.request()
        try:
            message.ParseFromString(payload)
        except DecodeError as error:
            raise MalformedMessage(
                f"malformed {self.request.DESCRIPTOR.full_name}: {error}; send a message made from our protos"
            ) from error
        return self.run(message).SerializeToString()


class ControlLoop:
    """Drains the native server's queue of control calls until it is closed.

    A call is taken only when a worker is free, so that the native queue's bound is the only one.
    """

    def __init__(self, server: Server, methods: Mapping[str, Method]) -> None:
        self._server = server
        self._methods = methods
        self._stopping = threading.Event()
        self._free = threading.Semaphore(_WORKERS)
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="control")
        self._thread = threading.Thread(target=self._drain, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finishes the calls it has and takes no more; call after the server has drained."""
        self._stopping.set()
        self._thread.join()
        self._workers.shutdown(wait=True)

    def _drain(self) -> None:
        while not self._stopping.is_set():
            if not self._free.acquire(timeout=_POLL_S):
                continue
            call = self._server.next_call(_POLL_S)
            if call is None:
                self._free.release()
            else:
                self._workers.submit(self._answer, call)

    def _answer(self, call: ControlCall) -> None:
        started_s = time.monotonic()
        try:
            call.reply(self._methods[call.method].answer(call.message))
            _log.debug("%s answered in %.1f ms", call.method, 1e3 * (time.monotonic() - started_s))
        except Exception as error:
            code, message, details = encode_error(error)
            _log.debug("%s refused with status %d: %s", call.method, code, describe_error(error))
            call.fail(code, message, details)
        finally:
            self._free.release()
