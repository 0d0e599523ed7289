"""Deadlines of callers at the end of a long link: their clocks run while requests and answers are on the way."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import uuid
from pathlib import Path

import pytest
from starling.predict.v1.predict_service_pb2 import PredictRequest

from engines import DataType
from mesh import testbed as testbeds
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed import Link, Shape, TestbedPlan, WiredTestbed
from mesh.testbed.namespace import call_inside
from services.host import StatusCode
from tests.support.node_calls import tensor
from tests.support.node_models import identity, publish
from tests.support.raw_call import RawReply, call_raw

WHY_NOT = testbeds.why_no_wire(testbeds.find_program())
pytestmark = pytest.mark.skipif(WHY_NOT is not None and os.geteuid() != 0, reason=f"needs root: {WHY_NOT}")

_ONE_WAY_MS = 150
_RUN_MS = 1000
_TIMEOUT_MS = 900
_WAIT_S = 60.0
_PREDICT = "/starling.predict.v1.PredictService/Predict"


async def test_the_time_on_the_link_is_not_left_for_the_answer(tmp_path: Path) -> None:
    publish(tmp_path / "models", identity("slow", (DataType.FP32, (4,)), delay_us=_RUN_MS * 1000))
    message = PredictRequest(model_name="slow", inputs=[tensor("x0", (1, 4))]).SerializeToString()
    async with Supervisor() as supervisor:
        plan = TestbedPlan(f"test-{uuid.uuid4().hex[:12]}", (Link("edge", "cloud", Shape(delay_ms=_ONE_WAY_MS)),))
        bed = await testbeds.open_testbed(plan, supervisor, needs_wire=True)
        assert isinstance(bed, WiredTestbed)
        command = (sys.executable, "-P", "-m", "services.host.cli", "node", "--repository", str(tmp_path / "models"))
        flags = ("--grpc", f"{bed.get_address('cloud')}:0", "--metrics", "127.0.0.1:0", "--name", "far")
        (node,) = await supervisor.start([bed.place("cloud", Program("node", (*command, *flags)))])

        def ask(timeout_ms: int) -> RawReply:
            return call_inside(
                bed.get_namespace("edge"),
                lambda: call_raw(node.facts["grpc"], _PREDICT, message, grpc_timeout=f"{timeout_ms}m"),
            )

        async def refuse() -> RawReply:
            # An idle model gives everybody a try; the next one waits behind it.
            while "grpc-status" not in (reply := await asyncio.to_thread(ask, _TIMEOUT_MS)).headers:
                pass
            return reply

        async with asyncio.timeout(_WAIT_S):
            answered, refused = await asyncio.gather(asyncio.to_thread(ask, 60_000), refuse())
        assert (answered.trailers["grpc-status"], len(answered.body) > 0) == ("0", True)
        assert int(refused.headers["grpc-status"]) == StatusCode.RESOURCE_EXHAUSTED
        left = re.search(r"(\d+) us are left", refused.headers["grpc-message"])
        assert left is not None
        assert int(left[1]) <= (_TIMEOUT_MS - 2 * _ONE_WAY_MS) * 1000
