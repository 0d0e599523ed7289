"""Reads how busy nodes are that do not register: one stream of each one's ORCA service."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from xds.service.orca.v3.orca_pb2 import OrcaLoadReportRequest

from mesh.control.load import read_orca
from mesh.control.node_channel import connect_node
from mesh.control.registry import REPORT_S, Member, Registry

METHOD = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
_LOOK_S = 1.0  # by then a node that came or left is noticed
_QUIET_S = 5.0  # reports are due every REPORT_S: a stream that is silent for so long is dead
_WAIT_S, _WAIT_MAX_S = 0.5, 30.0
_REQUEST = OrcaLoadReportRequest(report_interval=Duration(nanos=round(REPORT_S * 1e9)))
_log = logging.getLogger(__name__)


class LoadReader:
    """Follows the members of a registry that have no lease, as long as they are in it; there are no other streams.

    Args:
        registry: the nodes; what they report is kept with their members.
        certs: folder with `tls.crt`, `tls.key` and `ca.crt`, for nodes that ask who calls; plain text without it.
        wait_s: before a stream that broke is opened again; twice as long each time, up to 30 s.
    """

    def __init__(self, registry: Registry, certs: Path | None = None, wait_s: float = _WAIT_S) -> None:
        self._registry, self._certs, self._wait_s = registry, certs, wait_s
        self._streams: dict[Member, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Reads until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                members = {member for member in self._registry if not member.lease_id}
                for gone in self._streams.keys() - members:
                    self._streams.pop(gone).cancel()
                for new in members - self._streams.keys():
                    self._streams[new] = tasks.create_task(self._follow(new))
                await asyncio.sleep(_LOOK_S)

    async def _follow(self, member: Member) -> None:
        """Opens streams to one node, one after another."""
        wait_s, told = self._wait_s, ""
        while True:
            try:
                async for report in self._read(member):
                    member.take_report(*read_orca(report))
                    wait_s, told = self._wait_s, ""
                problem = "the stream has ended"
            except grpc.aio.AioRpcError as error:
                problem = f"{error.code().name} {error.details()}"
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    wait_s = _WAIT_MAX_S
            except (OSError, TimeoutError) as error:
                problem = repr(error)
            member.report = None  # what is old is not shown as new
            if problem != told:
                _log.warning("node %s does not report its load: %s", member.name, problem)
                told = problem
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, _WAIT_MAX_S)

    async def _read(self, member: Member) -> AsyncIterator[OrcaLoadReport]:
        """Yields what a node reports until the stream ends.

        Raises:
            grpc.aio.AioRpcError, OSError, TimeoutError: it broke, or fell silent.
        """
        async with await connect_node(member.name, member.address, self._certs) as channel:
            method = channel.unary_stream(METHOD, OrcaLoadReportRequest.SerializeToString, OrcaLoadReport.FromString)
            reports = aiter(method(_REQUEST))
            while True:
                async with asyncio.timeout(_QUIET_S):
                    report = await anext(reports, None)
                if report is None:
                    return
                yield report

    def __repr__(self) -> str:
        """Returns the number of nodes that are asked."""
        return f"<LoadReader nodes={len(self._streams)}>"
