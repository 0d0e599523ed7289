"""Nodes that say how loaded they are in the trailers of their answers: Envoy's own weighted policy follows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from xds.data.orca.v3 import orca_load_report_pb2

from mesh.gateway import Balancer, nodes_cluster
from mesh.gateway.typed import socket_address
from services.host import Address
from tests.support.static_gateway import PREDICT, MirrorNode, static_envoy

pytestmark = pytest.mark.asyncio

_WAIT_S = 30.0


class ReportingNode(MirrorNode):
    """A node that reports its load; answers with its name."""

    def __init__(self, name: bytes, utilization: float) -> None:
        super().__init__()
        self._name = name
        report = orca_load_report_pb2.OrcaLoadReport(rps_fractional=100.0, application_utilization=utilization)
        self._trailers = (("endpoint-load-metrics-bin", report.SerializeToString()),)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        del request
        context.set_trailing_metadata(self._trailers)
        return self._name


async def test_the_less_loaded_node_gets_more(tmp_path: Path) -> None:
    nodes = nodes_cluster(Balancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN)
    nodes = {key: value for key, value in nodes.items() if key not in ("eds_cluster_config", "health_checks")}
    async with ReportingNode(b"idle", 0.1) as idle, ReportingNode(b"busy", 0.9) as busy:
        hosts = [{"endpoint": {"address": socket_address(Address("127.0.0.1", n.port))}} for n in (idle, busy)]
        assignment = {"cluster_name": nodes["name"], "endpoints": [{"lb_endpoints": hosts}]}
        cluster = {**nodes, "type": "STATIC", "load_assignment": assignment}
        async with (
            static_envoy(tmp_path, cluster) as envoy,
            grpc.aio.insecure_channel(envoy.facts["grpc"]) as channel,
        ):
            ask = channel.unary_unary(PREDICT)
            end_s = time.monotonic() + _WAIT_S
            share = 0.0
            while share < 0.8:  # nine times as idle; equal weights until Envoy has believed it for a second
                assert time.monotonic() < end_s, f"the idle node got {share:.0%}"
                answers = [await ask(b"x", timeout=20) for _ in range(50)]
                share = answers.count(b"idle") / len(answers)
