"""Load reports at a gateway: a balancer that goes by them shifts traffic, and agents never see one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse

from engines import DataType
from mesh.bench.envoy_stats import read_stats
from mesh.gateway import Balancer, Resource, nodes_cluster
from mesh.gateway.typed import socket_address
from services.host import Address
from tests.support import node_models as models
from tests.support.node import RunningNode, StartNode
from tests.support.node_calls import PREDICT, tensor
from tests.support.raw_call import call_raw
from tests.support.static_gateway import static_envoy

pytestmark = pytest.mark.asyncio

TRAILER = "endpoint-load-metrics-bin"
WAIT_S = 60.0
ROUND = 50
REQUEST = PredictRequest(model_name="work", inputs=[tensor("x0", (1, 4))])


def publish(folder: Path, delay_ms: int) -> Path:
    models.publish(folder, models.identity("work", (DataType.FP32, (4,)), delay_us=1000 * delay_ms, queue_max=64))
    return folder


def before(*nodes: RunningNode, balancer: Balancer = Balancer.LEAST_REQUEST) -> Resource:
    """Returns the cluster of these nodes."""
    cluster = nodes_cluster(balancer)
    del cluster["eds_cluster_config"]
    addresses = (socket_address(Address("127.0.0.1", node.port)) for node in nodes)
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return cluster | {
        "type": "STATIC",
        "load_assignment": {"cluster_name": cluster["name"], "endpoints": [{"lb_endpoints": endpoints}]},
    }


async def ask(call: Any) -> None:
    """Sends a round of requests, a few at a time."""
    room = asyncio.Semaphore(4)

    async def one() -> None:
        async with room:
            await call(REQUEST, timeout=WAIT_S)

    await asyncio.gather(*(one() for _ in range(ROUND)))


@pytest.mark.parametrize("in_band", [False, True], ids=["out of band", "in band"])
async def test_a_node_that_reports_more_load_gets_less(tmp_path: Path, start_node: StartNode, in_band: bool) -> None:
    flags = ["--load-reports"] if in_band else []
    fast = start_node(publish(tmp_path / "fast", 2), *flags)
    slow = start_node(publish(tmp_path / "slow", 60), *flags)
    cluster = before(fast, slow, balancer=Balancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN)
    (policy,) = cluster["load_balancing_policy"]["policies"]
    policy["typed_extension_config"]["typed_config"]["enable_oob_load_report"] = not in_band
    async with (
        static_envoy(tmp_path, cluster) as gateway,
        grpc.aio.insecure_channel(gateway.facts["grpc"]) as channel,
    ):
        call = channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)
        end_s = time.monotonic() + WAIT_S
        share = 0.5
        # It begins with half for each; the slow one can do a thirtieth of what the fast one does.
        while share > 0.35:
            assert time.monotonic() < end_s, f"the slow node still gets {share:.0%}"
            seen = slow.count("starling_requests_total", model="work")
            await ask(call)
            share = (slow.count("starling_requests_total", model="work") - seen) / ROUND
        counted = await read_stats(Address.parse(gateway.facts["admin"]), "lb_orca_oob.reports_received")
        assert (sum(counted.values()) > 0) is not in_band


async def test_agents_see_no_report(tmp_path: Path, start_node: StartNode) -> None:
    node = start_node(publish(tmp_path / "models", 0), "--load-reports")
    async with static_envoy(tmp_path, before(node)) as gateway:
        unknown = PredictRequest(model_name="nobody")
        for target, told in ((node.target, True), (gateway.facts["grpc"], False)):
            answer = await asyncio.to_thread(call_raw, target, PREDICT, REQUEST.SerializeToString())
            assert (answer.trailers["grpc-status"], TRAILER in answer.trailers) == ("0", told)
            refusal = await asyncio.to_thread(call_raw, target, PREDICT, unknown.SerializeToString())
            assert (refusal.headers["grpc-status"], TRAILER in refusal.headers) == ("5", told)
