"""The gateway, a real Envoy, before nodes that only pretend to have an engine."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc
from starling.predict.v1 import model_service_pb2 as models_pb2
from starling.predict.v1 import model_service_pb2_grpc as models_grpc
from starling.predict.v1 import predict_service_pb2 as predict_pb2
from starling.predict.v1 import predict_service_pb2_grpc as predict_grpc
from starling.tensor.v1 import tensor_pb2

from mesh.bench.envoy_stats import read_stats
from mesh.errors import PortTaken
from mesh.gateway import GatewaySite, bootstrap, envoy_program, find_envoy
from mesh.local_mesh import LocalMesh, MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.client import AsyncClient, Prediction, RetryPolicy
from services.host import Address

pytestmark = pytest.mark.asyncio

_FAKE_NODE = Path(__file__).parents[1] / "support" / "fake_node.py"
_LARGE = ("grpc.max_send_message_length", 64 << 20)


def plan_mesh(tmp_path: Path, *flags: str, edges: int = 2, clouds: int = 1) -> MeshPlan:
    return MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=tmp_path,
        models=(),
        edges=edges,
        clouds=clouds,
        rtt_ms=30,
        run_dir=tmp_path,
        node_command=(sys.executable, str(_FAKE_NODE), *flags),
    )


@asynccontextmanager
async def running(plan: MeshPlan) -> AsyncIterator[tuple[LocalMesh, grpc.aio.Channel]]:
    async with Supervisor() as supervisor:
        mesh = await start_mesh(supervisor, plan)
        async with grpc.aio.insecure_channel(str(mesh.gateway), options=[_LARGE]) as channel:
            yield mesh, channel


def build_request(height: int = 64, width: int = 64) -> predict_pb2.PredictRequest:
    frame = np.zeros((1, height, width, 3), np.uint8)
    tensor = tensor_pb2.Tensor(
        name="frame",
        data_type=tensor_pb2.DATA_TYPE_UINT8,
        shape=frame.shape,
        data=frame.tobytes(),
    )
    return predict_pb2.PredictRequest(model_name="nanodet-small", inputs=[tensor])


async def test_reflection_and_health_answer_through_the_gateway(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path)) as (_, channel):
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        async for answer in call:
            names = {service.name for service in answer.list_services_response.service}
        assert {
            "starling.predict.v1.PredictService",
            "starling.predict.v1.ModelService",
            "grpc.health.v1.Health",
        } <= names
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        models = await models_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest(), timeout=5)
        assert [model.name for model in models.models] == ["nanodet-small"]


async def test_the_edge_is_preferred_and_the_cloud_is_used(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path, "--latency-ms", "2")) as (_, channel):
        predict = predict_grpc.PredictServiceStub(channel)
        answers = [await predict.Predict(build_request(), timeout=5) for _ in range(60)]
        counts = {name: sum(a.node == name for a in answers) for name in ("edge-1", "edge-2", "cloud-1")}
        assert sum(counts.values()) == 60
        assert counts["edge-1"] > counts["cloud-1"] < counts["edge-2"]


async def test_a_full_node_is_relieved_by_another(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path, "--latency-ms", "10")) as (_, channel):
        for name in ("edge-1", "cloud-1"):
            (tmp_path / f"{name}.reject").touch()
        predict = predict_grpc.PredictServiceStub(channel)
        calls = [predict.Predict(build_request(), timeout=5) for _ in range(12)]
        assert {answer.node for answer in await asyncio.gather(*calls)} == {"edge-2"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_node_that_ends_loses_no_request(tmp_path: Path, number: signal.Signals) -> None:
    async with running(plan_mesh(tmp_path, "--latency-ms", "20")) as (mesh, channel):
        calls = []

        async def send(count: int) -> None:
            for _ in range(count):
                calls.append(asyncio.create_task(_call(channel)))
                await asyncio.sleep(0.02)

        await send(50)
        mesh.nodes[0].child.send_signal(number)
        ended = asyncio.create_task(mesh.nodes[0].child.wait())
        while not ended.done():
            await send(1)
        before = len(calls)
        await send(50)
        nodes = [answer.node for answer in await asyncio.gather(*calls)]
        assert "edge-1" in nodes[:50]
        assert "edge-1" not in nodes[before:]


async def test_a_node_that_fails_everything_gets_next_to_nothing_and_costs_no_request(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path, "--latency-ms", "10", edges=3, clouds=0)) as (mesh, channel):
        stub: Any = predict_grpc.PredictServiceStub(channel)
        told = tmp_path / "edge-1.fails"

        async def edge() -> Any:
            async with grpc.aio.insecure_channel(str(mesh.control)) as control:
                status: Any = control_service_pb2_grpc.ControlServiceStub(control)
                seen = await status.GetMesh(control_service_pb2.GetMeshRequest(), timeout=10)
            return next(weight for weight in seen.viewpoints[0].weights if weight.node == "edge-1")

        async def ask_until(condition: Callable[[Any], bool]) -> set[grpc.StatusCode]:
            codes: set[grpc.StatusCode] = set()
            end_s = time.monotonic() + 60
            while not condition(await edge()):
                assert time.monotonic() < end_s, await edge()
                for _ in range(20):
                    try:
                        await stub.Predict(build_request(), timeout=20)
                    except grpc.aio.AioRpcError as error:
                        codes.add(error.code())
            return codes

        # What callers did wrong is not the node's fault, and another one would say the same.
        told.write_text("INVALID_ARGUMENT")
        began = time.monotonic()
        codes = await ask_until(lambda edge: time.monotonic() > began + 2)
        assert codes == {grpc.StatusCode.INVALID_ARGUMENT}
        assert "fails" not in (await edge()).reason

        told.write_text("UNKNOWN")
        assert await ask_until(lambda edge: edge.failed_ratio > 0) == set()
        told.write_text("INTERNAL")
        assert await ask_until(lambda edge: edge.share < 0.04 and edge.reason.startswith("fails")) == set()
        told.unlink()
        assert await ask_until(lambda edge: edge.share > 0.2) == set()


async def test_a_frame_of_1080p_passes_and_is_repeated(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path)) as (_, channel):
        for name in ("edge-1", "edge-2"):
            (tmp_path / f"{name}.reject").touch()
        predict = predict_grpc.PredictServiceStub(channel)
        for _ in range(4):
            assert (await predict.Predict(build_request(1080, 1920), timeout=10)).node == "cloud-1"


async def test_the_deadline_travels(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path, "--latency-ms", "500")) as (_, channel):
        predict = predict_grpc.PredictServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict.Predict(build_request(), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_without_nodes_the_answer_is_unavailable(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path, edges=1, clouds=0)) as (mesh, channel):
        mesh.nodes[0].child.send_signal(signal.SIGKILL)
        await mesh.nodes[0].child.wait()
        predict = predict_grpc.PredictServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict.Predict(build_request(), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_second_mesh_on_the_same_port_is_refused(tmp_path: Path) -> None:
    plan = plan_mesh(tmp_path, edges=1, clouds=0)
    async with running(plan) as (mesh, _), Supervisor() as supervisor:
        with pytest.raises(PortTaken, match=rf"cannot listen on {mesh.gateway}: another"):
            await start_mesh(supervisor, replace(plan, gateway=mesh.gateway))


async def test_curl_is_told_that_this_is_grpc(tmp_path: Path) -> None:
    async with running(plan_mesh(tmp_path, edges=1, clouds=0)) as (mesh, _):
        reader, writer = await asyncio.open_connection(mesh.gateway.host, mesh.gateway.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read(-1)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 415 ")
        assert b"it speaks gRPC" in answer


async def test_a_gateway_that_is_replaced_surfaces_no_error_and_two_hundred_agents_come_back(tmp_path: Path) -> None:
    frame = {"frame": np.zeros((1, 8, 8, 3), np.uint8)}
    tries = RetryPolicy(attempts_max=100)
    async with Supervisor() as supervisor, AsyncExitStack() as stack:
        mesh = await start_mesh(supervisor, plan_mesh(tmp_path, "--latency-ms", "1", "--queue-max", "1000", clouds=0))
        target = str(mesh.gateway)
        agents = [await stack.enter_async_context(AsyncClient(target, retry=tries)) for _ in range(200)]

        def ask() -> list[asyncio.Task[Prediction]]:
            return [asyncio.create_task(each.predict("nanodet-small", frame, deadline_s=30)) for each in agents]

        await asyncio.gather(*ask())
        under_way = ask()
        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        await mesh.gateway_child.kill()
        waiting = ask()
        site = GatewaySite("gateway", mesh.gateway, mesh.control)
        (again,) = await supervisor.start([envoy_program(find_envoy(), bootstrap(site), tmp_path)])
        assert all(answer.node for answer in await asyncio.gather(*under_way, *waiting))
        admin = Address.parse(again.facts["admin"])
        connections = await read_stats(admin, "http.mesh.downstream_cx_total")
        assert connections["http.mesh.downstream_cx_total"] >= len(agents)


async def _call(channel: grpc.aio.Channel) -> predict_pb2.PredictResponse:
    stub: Any = predict_grpc.PredictServiceStub(channel)
    answer: predict_pb2.PredictResponse = await stub.Predict(build_request(), timeout=5)
    return answer
