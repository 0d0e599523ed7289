"""The control plane with real nodes: they register, are weighed, drained and replaced; and it may die itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc
from starling.predict.v1 import predict_service_pb2, predict_service_pb2_grpc
from starling.tensor.v1 import tensor_pb2

from engines import DataType
from mesh.local_mesh import LocalMesh, MeshPlan, control_program, start_mesh
from mesh.supervisor import Supervisor
from services.client import AsyncClient, Prediction, Request
from services.host import Address
from tests.support import node_models as models
from tests.support.node import running_node
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio


def publish(folder: Path) -> Path:
    """Makes a repository whose model takes 10 ms, two at a time."""
    root = folder / "models"
    models.publish(root, models.identity("work", (DataType.FP32, (4,)), delay_us=10_000, queue_max=8))
    return root


@asynccontextmanager
async def running(tmp_path: Path, edges: int = 2, clouds: int = 1) -> AsyncIterator[tuple[LocalMesh, Supervisor]]:
    plan = MeshPlan(Address("127.0.0.1", 0), publish(tmp_path), ("work",), edges, clouds, 30, tmp_path / "run")
    async with Supervisor() as supervisor:
        yield await start_mesh(supervisor, plan), supervisor


async def see(mesh: LocalMesh) -> Any:
    """Returns what the control plane shows."""
    async with grpc.aio.insecure_channel(str(mesh.control)) as channel:
        stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
        return await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=5, wait_for_ready=True)


def shares(mesh: Any) -> dict[str, float]:
    return {weight.node: weight.share for weight in mesh.viewpoints[0].weights}


def healths(mesh: Any) -> dict[str, Any]:
    return {weight.node: weight.health for weight in mesh.viewpoints[0].weights}


class Load:
    """Asks at a steady rate while the context is open; remembers who answered and what failed."""

    def __init__(self, mesh: LocalMesh, every_s: float = 0.02) -> None:
        self._mesh, self._every_s = mesh, every_s
        self.answered: list[str] = []
        self.failed: list[str] = []

    async def __aenter__(self) -> Load:
        self._channel = grpc.aio.insecure_channel(str(self._mesh.gateway))
        self._stub: Any = predict_service_pb2_grpc.PredictServiceStub(self._channel)
        self._calls: set[asyncio.Task[None]] = set()
        self._asking = asyncio.create_task(self._ask())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._asking.cancel()
        await asyncio.gather(*self._calls)
        await self._channel.close()

    async def answer(self, more: int) -> None:
        """Waits for so many more answers."""
        target = len(self.answered) + more

        async def enough() -> bool:
            return len(self.answered) >= target

        await wait_for(enough)

    async def _ask(self) -> None:
        while True:
            call = asyncio.create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            await asyncio.sleep(self._every_s)

    async def _call(self) -> None:
        values = np.zeros((1, 4), np.float32)
        tensor = tensor_pb2.Tensor(
            name="x0", data_type=tensor_pb2.DATA_TYPE_FP32, shape=values.shape, data=values.tobytes()
        )
        request = predict_service_pb2.PredictRequest(model_name="work", inputs=[tensor])
        try:
            answer = await self._stub.Predict(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            self.failed.append(f"{error.code().name} {error.details()}")
        else:
            self.answered.append(answer.node)


async def test_real_nodes_register_with_what_they_can_do(tmp_path: Path) -> None:
    async with running(tmp_path) as (mesh, _):
        seen = await see(mesh)
        assert [node.name for node in seen.nodes] == ["cloud-1", "edge-1", "edge-2"]
        for node in seen.nodes:
            assert [(model.name, model.ready) for model in node.models] == [("work", True)]
            assert node.capabilities.core_count > 0
        assert list(seen.alarms) == []

        async def reported() -> bool:
            return all(node.HasField("load") for node in (await see(mesh)).nodes)

        await wait_for(reported)


async def test_a_node_that_does_not_register_shows_its_load(tmp_path: Path) -> None:
    local = Address("127.0.0.1", 0)
    with running_node(tmp_path / "node", publish(tmp_path), "--model", "work") as node:
        async with Supervisor() as supervisor:
            flags = ("--node", f"far=cloud@{node.target}")
            (control,) = await supervisor.start([control_program(local, local, flags)])
            async with grpc.aio.insecure_channel(control.facts["grpc"]) as channel:
                stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)

                async def reports() -> bool:
                    (far,) = (await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=5)).nodes
                    return bool(far.HasField("load"))

                async def is_silent() -> bool:
                    return not await reports()

                await wait_for(reports)
                node.terminate()
                await wait_for(is_silent)


async def test_weights_follow_a_node_that_becomes_far(tmp_path: Path) -> None:
    async with running(tmp_path, edges=1, clouds=2) as (mesh, _), Load(mesh):

        async def edge_is_first() -> bool:
            return shares(await see(mesh))["edge-1"] > 0.8

        await wait_for(edge_is_first)
        before = shares(await see(mesh))
        mesh.delays["cloud-1"].send_line("rtt_ms 200")

        async def cloud_is_avoided() -> bool:
            weight = next(w for w in (await see(mesh)).viewpoints[0].weights if w.node == "cloud-1")
            return bool(weight.latency.ToMilliseconds() > 100 and weight.share < before["cloud-2"])

        await wait_for(cloud_is_avoided)


async def test_a_drained_node_leaves_without_a_failed_request(tmp_path: Path) -> None:
    async with running(tmp_path) as (mesh, _), Load(mesh) as load:
        await load.answer(20)
        command = [sys.executable, "-m", "services.host.cli", "mesh", "drain", "edge-1", "--control", str(mesh.control)]
        drain = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(drain.communicate(), 90)
        assert (drain.returncode, out.decode()) == (0, "edge-1 drains\nedge-1 has left\n")
        assert await mesh.nodes[0].child.wait() == 0
        await load.answer(20)
    assert load.failed == []
    assert "edge-1" not in load.answered[-20:]


async def test_a_stopped_node_is_out_of_rotation_and_what_it_held_is_answered_by_others(tmp_path: Path) -> None:
    async with running(tmp_path) as (mesh, _), AsyncClient(str(mesh.gateway)) as client, asyncio.TaskGroup() as tasks:
        request = Request(model="work", inputs={"x0": np.zeros((1, 4), np.float32)})
        begun: asyncio.Queue[str] = asyncio.Queue()
        stopped = asyncio.Event()

        async def requests() -> AsyncIterator[Request]:
            for number in range(20):
                if number == 10:
                    await stopped.wait()
                yield request

        async def stream() -> list[str]:
            nodes: list[str] = []
            async for answer in client.predict_stream(requests(), in_flight_max=4, deadline_s=120):
                assert isinstance(answer, Prediction), answer
                nodes.append(answer.node)
                if len(nodes) == 10:
                    begun.put_nowait(answer.node)
            return nodes

        streaming = tasks.create_task(stream())
        name = await asyncio.wait_for(begun.get(), 60)
        victim = next(node.child for node in mesh.nodes if node.name == name)
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            stopped.set()
            # Some of these reach it before anybody knows.
            held = await asyncio.gather(*(client.send(request, deadline_s=60) for _ in range(12)))
            assert name not in {answer.node for answer in held}
            streamed = await streaming
            assert streamed[:10] == [name] * 10
            assert name not in streamed[10:]

            async def silent() -> bool:
                seen = await see(mesh)
                told = all(gateway.pushed_count == gateway.accepted_count for gateway in seen.gateways)
                # One that has been silent for the length of its lease is lost, and shown no more.
                return told and healths(seen).get(name) in (control_service_pb2.NODE_HEALTH_SILENT, None)

            await wait_for(silent)
            async with Load(mesh) as load:
                await load.answer(20)
            assert load.failed == []
            assert name not in load.answered
        finally:
            os.kill(victim.pid, signal.SIGCONT)

        async def speaks() -> bool:
            return not (await see(mesh)).alarms

        await wait_for(speaks)


async def test_agents_are_served_while_the_control_plane_is_away_and_it_resumes(tmp_path: Path) -> None:
    async with running(tmp_path) as (mesh, supervisor), Load(mesh) as load:
        await load.answer(20)
        await mesh.control_child.kill()
        await load.answer(40)
        (again,) = await supervisor.start([mesh.control_again])

        async def resumed() -> bool:
            seen = await see(mesh)
            return len(seen.nodes) == 3 and len(seen.gateways) == 1 and not seen.alarms

        await wait_for(resumed)
        mesh.delays["cloud-1"].send_line("rtt_ms 200")

        async def steers() -> bool:
            (gateway,) = (await see(mesh)).gateways
            return bool(gateway.accepted_count > 0)

        # The gateway keeps what it brought along until the new control plane knows the nodes as well.
        await wait_for(steers)
        assert again.exit_code is None
        seen = shares(await see(mesh))
        assert set(seen) == {"cloud-1", "edge-1", "edge-2"}
    assert load.failed == []
    assert len(load.answered) > 100
