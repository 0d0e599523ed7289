"""The gateways' access log as the latency signal: one sample per try at a node."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from envoy.service.accesslog.v3 import als_pb2

from mesh.control.access import Access
from mesh.control.errors import NotAllowed
from mesh.control.estimate import Ending, Sample
from mesh.control.guard import read_spiffe_id
from mesh.control.wire import refuse
from services.host import Address

Sink = Callable[[str, Address, Sample], None]
"""Takes gateway name, node address and sample."""

# Unary and alike: their duration is the node's latency. A stream lasts as long as its user wants.
TIMED_PATHS = frozenset(
    {"/starling.predict.v1.PredictService/Predict", "/inference.GRPCInferenceService/ModelInfer"},
)

# After these a node may have other models.
_MODEL_PATHS = frozenset(
    f"/{method}"
    for method in (
        "starling.predict.v1.ModelService/LoadModel",
        "starling.predict.v1.ModelService/UnloadModel",
        "inference.GRPCInferenceService/RepositoryModelLoad",
        "inference.GRPCInferenceService/RepositoryModelUnload",
    )
)

_OK = 0
_LATE = 4  # DEADLINE_EXCEEDED
_REFUSED = 8  # RESOURCE_EXHAUSTED
# What the caller did or asked wrongly says nothing about the node.
_CALLERS = frozenset({1, 3, 5, 6, 9, 10, 11, 12, 16, 7})
_log = logging.getLogger(__name__)


class AccessLog:
    """Serves `envoy.service.accesslog.v3.AccessLogService`.

    Args:
        sink: takes each sample.
        access: judges who speaks for which gateway; anybody for each without it.
        clock: seconds, monotonic; entries count from when they arrive, at most 0.1 s after the answer.
        models_changed: told of each node that was asked to load or unload a model.
    """

    def __init__(
        self,
        sink: Sink,
        access: Access | None = None,
        clock: Callable[[], float] = time.monotonic,
        models_changed: Callable[[Address], None] = lambda _: None,
    ) -> None:
        self._sink, self._access, self._clock, self._models_changed = sink, access, clock, models_changed
        self.entries = 0

    async def StreamAccessLogs(self, requests: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802
        """Takes the log of one gateway for as long as it is connected."""
        gateway = ""
        async for message in requests:
            if message.HasField("identifier"):
                gateway = message.identifier.node.id
                await self._check(context, gateway)
            now_s = self._clock()
            for entry in message.http_logs.log_entry:
                self.entries += 1
                self._take(gateway, entry, now_s)
        return als_pb2.StreamAccessLogsResponse()

    async def _check(self, context: Any, gateway: str) -> None:
        if self._access is None:
            return
        try:
            self._access.check_gateway(read_spiffe_id(context), gateway)
        except NotAllowed as error:
            await refuse(context, error)

    def _take(self, gateway: str, entry: Any, now_s: float) -> None:
        common = entry.common_properties
        socket = common.upstream_remote_address.socket_address
        if not socket.port_value:
            return  # never reached a node
        if entry.request.path in _MODEL_PATHS:
            self._models_changed(Address(socket.address, socket.port_value))
        if entry.request.path not in TIMED_PATHS:
            return
        ending = read_ending(entry)
        if ending is None:
            return
        began = common.time_to_first_upstream_tx_byte
        ended = common.time_to_last_upstream_rx_byte
        latency_s = _seconds(ended) - _seconds(began)
        if latency_s <= 0.0 and ending in (Ending.LATE, Ending.ANSWERED):
            latency_s = _seconds(common.time_to_last_downstream_tx_byte) - _seconds(began)
        if latency_s <= 0.0 and ending is Ending.ANSWERED:
            return
        sample = Sample(now_s, max(latency_s, 1e-6), ending)
        self._sink(gateway, Address(socket.address, socket.port_value), sample)

    def __repr__(self) -> str:
        """Returns the number of entries so far."""
        return f"<AccessLog entries={self.entries}>"


def read_ending(entry: Any) -> Ending | None:
    """Returns how a try ended for the node; None when it was the caller's doing."""
    flags = entry.common_properties.response_flags
    if flags.upstream_request_timeout or flags.stream_idle_timeout or flags.duration_timeout:
        return Ending.LATE
    if (
        flags.upstream_connection_failure
        or flags.upstream_connection_termination
        or flags.upstream_remote_reset
        or flags.upstream_protocol_error
    ):
        return Ending.FAILED
    trailers, headers = entry.response.response_trailers, entry.response.response_headers
    text = trailers.get("grpc-status", "") or headers.get("grpc-status", "")
    if not text.isdigit():
        return None
    code = int(text)
    if code == _OK:
        return Ending.ANSWERED
    if code in _CALLERS:
        return None
    return {_LATE: Ending.LATE, _REFUSED: Ending.REFUSED}.get(code, Ending.FAILED)


def _seconds(duration: Any) -> float:
    return float(duration.seconds) + float(duration.nanos) * 1e-9
