"""A node says how busy it is: in the trailers of its answers, and to whoever asks for just that."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport
from xds.service.orca.v3.orca_pb2 import OrcaLoadReportRequest

from services.client import Client
from tests.support.node import RunningNode, StartNode
from tests.support.node_calls import PREDICT, echo_request, pass_bytes, refused
from tests.support.raw_call import call_raw

METHOD = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
TRAILER = "endpoint-load-metrics-bin"
LIMIT_S = 30.0


def follow(channel: grpc.Channel, request: bytes = b"") -> Any:
    """Returns the stream of a node's reports."""
    stream = channel.unary_stream(METHOD, pass_bytes, OrcaLoadReport.FromString)
    return stream(request, timeout=LIMIT_S)


def every(seconds: float) -> bytes:
    interval = Duration()
    interval.FromNanoseconds(round(seconds * 1e9))
    return OrcaLoadReportRequest(report_interval=interval).SerializeToString()


def ask(node: RunningNode, count: int) -> None:
    with Client(node.target) as client:
        for _ in range(count):
            client.predict("echo", {"x0": np.zeros((1, 64), np.float32)})


def find(stream: Iterator[OrcaLoadReport], condition: Any) -> OrcaLoadReport:
    """Returns the first report that fulfils a condition."""
    return next(report for report in stream if condition(report))


def test_reports_follow_what_the_node_does(node: RunningNode, channel: grpc.Channel) -> None:
    stream = follow(channel, every(0.1))
    first = next(stream)
    assert 0 < first.mem_utilization < 1
    assert first.named_metrics["queued"] == 0
    ask(node, 20)
    busy = find(stream, lambda report: report.rps_fractional > 0)
    assert busy.eps == 0
    assert busy.application_utilization > 0
    assert busy.named_metrics["compute_us"] > 0
    idle = find(stream, lambda report: report.rps_fractional == 0)
    assert "compute_us" not in idle.named_metrics
    stream.cancel()


@pytest.mark.parametrize(
    "request_bytes",
    [
        every(-1.0),
        OrcaLoadReportRequest(report_interval=Duration(nanos=10**9)).SerializeToString(),
        b"\x0a\x7f",
        b"\xff",
    ],
    ids=["negative", "too many nanoseconds", "cut off", "no message"],
)
def test_malformed_requests_are_refused(channel: grpc.Channel, request_bytes: bytes) -> None:
    refusal = refused(lambda: next(follow(channel, request_bytes)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert refusal.facts == {"field": "report_interval"}


def test_streams_end_when_the_node_drains(start_node: StartNode, repository: Path) -> None:
    node = start_node(repository, "--model", "echo")
    with node.connect() as channel:
        stream = follow(channel, every(3600.0))
        assert next(stream).mem_utilization > 0
        node.terminate()
        refusal = refused(lambda: next(stream))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert node.wait() == 0


def test_answers_and_refusals_carry_a_report_where_they_are_told_to(start_node: StartNode, repository: Path) -> None:
    node = start_node(repository, "--model", "echo", "--load-reports")
    answer = call_raw(node.target, PREDICT, echo_request().SerializeToString())
    assert answer.trailers["grpc-status"] == "0"
    padded = answer.trailers[TRAILER] + "=" * (-len(answer.trailers[TRAILER]) % 4)
    assert OrcaLoadReport.FromString(base64.b64decode(padded)).mem_utilization > 0
    refusal = call_raw(node.target, PREDICT, echo_request(model_name="nobody").SerializeToString())
    assert (refusal.headers["grpc-status"], TRAILER in refusal.headers) == ("5", True)


def test_answers_carry_none_where_nobody_asked_for_it(node: RunningNode) -> None:
    answer = call_raw(node.target, PREDICT, echo_request().SerializeToString())
    assert answer.trailers == {"grpc-status": "0"}
