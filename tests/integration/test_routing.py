"""Where the gateway sends a call: to nodes that have its model, by version and label, an agent's to the same one."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from starling.inference import open_inference_pb2 as oip
from starling.inference import open_inference_pb2_grpc
from starling.mesh.v1 import control_service_pb2, control_service_pb2_grpc, node_service_pb2_grpc
from starling.mesh.v1 import node_service_pb2 as nodes_pb
from starling.predict.v1 import predict_service_pb2 as pb
from starling.predict.v1 import predict_service_pb2_grpc

from engines import DataType
from mesh.child import Child
from mesh.gateway import GatewaySite, bootstrap, envoy_program, find_envoy
from mesh.local_mesh import NODE_COMMAND, control_program
from mesh.program import Program
from mesh.supervisor import Supervisor
from services.client import AsyncClient, Client, ModelNotFound, Prediction, Request, SequenceNotFound, StarlingError
from services.host import Address
from tests.support import node_models as models
from tests.support.node_calls import tensor
from tests.support.waiting import wait_for

pytestmark = pytest.mark.asyncio

_FREE = Address("127.0.0.1", 0)
_X = np.zeros((1, 4), np.float32)
Models = Mapping[str, tuple[int, ...]]
"""Versions by model."""


@dataclass
class Mesh:
    """A control plane, a gateway and nodes, each with models of its own."""

    folder: Path
    supervisor: Supervisor
    control: Address
    gateway: str
    control_again: Program
    control_child: Child

    async def start_node(self, name: str, repository: Path, *flags: str) -> Child:
        words = {"--name": name, "--repository": str(repository), "--tier": "edge", "--grpc": str(_FREE)}
        words |= {"--metrics": str(_FREE), "--control": str(self.control)}
        command = (*NODE_COMMAND, *(word for flag in words.items() for word in flag), *flags)
        (child,) = await self.supervisor.start([Program(name, command, ready_timeout_s=120)])
        return child

    async def see(self) -> Any:
        async with grpc.aio.insecure_channel(str(self.control)) as channel:
            stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
            return await stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=10, wait_for_ready=True)

    async def set_route(self, model: str, **labels: tuple[int, float]) -> Any:
        async with grpc.aio.insecure_channel(str(self.control)) as channel:
            stub: Any = control_service_pb2_grpc.ControlServiceStub(channel)
            given = [
                control_service_pb2.VersionLabel(name=name, version=version, percent=percent)
                for name, (version, percent) in labels.items()
            ]
            route = control_service_pb2.ModelRoute(model_name=model, labels=given)
            return await stub.SetModelRoute(control_service_pb2.SetModelRouteRequest(route=route), timeout=10)

    async def drain(self, node: str) -> None:
        async with grpc.aio.insecure_channel(str(self.control)) as channel:
            stub: Any = node_service_pb2_grpc.NodeServiceStub(channel)
            await stub.DrainNode(nodes_pb.DrainNodeRequest(name=node), timeout=10)

    def client(self, agent: str = "") -> AsyncClient:
        return AsyncClient(self.gateway, agent_id=agent)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Mesh]:
    routes = folder / "routes.json"
    flags = ("--routes", str(routes))
    async with Supervisor() as supervisor:
        (control,) = await supervisor.start([control_program(_FREE, _FREE, flags)])
        address = Address.parse(control.facts["grpc"])
        again = control_program(address, Address.parse(control.facts["metrics"]), flags)
        boot = bootstrap(GatewaySite("gateway", _FREE, address))
        (gateway,) = await supervisor.start([envoy_program(find_envoy(), boot, folder)])
        yield Mesh(folder, supervisor, address, gateway.facts["grpc"], again, control)


def publish(root: Path, name: str, *versions: int, **fields: Any) -> Path:
    """Adds an identity model to a repository, which serves the given versions."""
    for version in versions:
        config = replace(models.identity(name, (DataType.FP32, (4,)), versions=0), **fields)
        models.publish(root, config, version=version)
    return root


async def ask(client: AsyncClient, model: str = "m", **fields: Any) -> str:
    """Returns `node:version` of an answer, or the reason of a refusal."""
    try:
        answer = await client.predict(model, {"x0": _X}, deadline_s=10, **fields)
    except StarlingError as error:
        return error.reason or error.status
    return f"{answer.node}:{answer.version}"


def answered_by(client: AsyncClient, *expected: str, **fields: Any) -> Callable[[], Awaitable[bool]]:
    async def asks() -> bool:
        return {await ask(client, **fields) for _ in range(8)} <= set(expected)

    return asks


async def test_a_model_is_asked_for_only_where_it_is_loaded(tmp_path: Path) -> None:
    one, two = publish(tmp_path / "one", "m", 1, 2), publish(tmp_path / "two", "other", 1)
    publish(two, "m", 3)
    publish(two, "late", 1)
    async with running(tmp_path) as mesh, mesh.client() as client:
        await mesh.start_node("n-1", one)
        second = await mesh.start_node("n-2", two, "--model", "other", "--model", "m")
        await wait_for(answered_by(client, "n-2:3", version=3))
        await wait_for(answered_by(client, "n-1:2", version=2))
        assert {await ask(client, version=1) for _ in range(10)} == {"n-1:1"}
        assert {await ask(client, "other") for _ in range(10)} == {"n-2:1"}
        seen: set[str] = set()

        async def are_both_asked() -> bool:
            seen.add(await ask(client))
            return len(seen) > 1

        await wait_for(are_both_asked)  # whichever answers faster gets most
        assert seen == {"n-1:2", "n-2:3"}
        assert await ask(client, version=9) == "MODEL_NOT_FOUND"

        async def is_refused_here() -> bool:
            try:
                await client.predict("nowhere", {"x0": _X}, deadline_s=10)
            except ModelNotFound as error:
                return error.metadata.get("by") == "gateway" and str(error).startswith("model nowhere is loaded on no")
            raise AssertionError("there is no such model")

        await wait_for(is_refused_here)  # a control plane that has just started waits for nodes to register again
        with pytest.raises(ModelNotFound, match="version 9 of model m is loaded on no node"):
            await client.predict("m", {"x0": _X}, version=9, deadline_s=10)
        with pytest.raises(ModelNotFound, match="label new of model m is loaded on no node"):
            await client.predict("m", {"x0": _X}, label="new", deadline_s=10)
        assert {await ask(client, "nowhere", allow=("other",)) for _ in range(10)} == {"n-2:1"}

        # Callers that send no headers, in both formats.
        async with grpc.aio.insecure_channel(mesh.gateway) as channel:
            stub: Any = predict_service_pb2_grpc.PredictServiceStub(channel)
            for version, node in ((1, "n-1"), (2, "n-1"), (3, "n-2")):
                request = pb.PredictRequest(model_name="m", model_version=version, inputs=[tensor("x0", (1, 4))])
                assert {(await stub.Predict(request, timeout=10)).node for _ in range(6)} == {node}
            stream = stub.PredictStream(timeout=30)
            for _ in range(3):
                await stream.write(pb.PredictStreamRequest(request=request))
                assert (await stream.read()).response.node == "n-2"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Predict(pb.PredictRequest(model_name="nowhere"), timeout=10)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details().startswith("model nowhere is loaded on no node")
            nowhere = stub.PredictStream(timeout=10)
            await nowhere.write(pb.PredictStreamRequest(request=pb.PredictRequest(model_name="nowhere")))
            assert await nowhere.code() is grpc.StatusCode.NOT_FOUND
            foreign: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            x = oip.ModelInferRequest.InferInputTensor(name="x0", datatype="FP32", shape=[1, 4])
            for model, version in (("m", "1"), ("m", "3"), ("other", "")) * 4:
                about = oip.ModelReadyRequest(name=model, version=version)
                assert (await foreign.ModelReady(about, timeout=10)).ready
                infer = oip.ModelInferRequest(model_name=model, model_version=version, inputs=[x])
                infer.raw_input_contents.append(_X.tobytes())
                assert (await foreign.ModelInfer(infer, timeout=10)).model_version == (version or "1")
            infer.model_name = "nowhere"
            with pytest.raises(grpc.aio.AioRpcError, match="model nowhere is loaded on no node"):
                await foreign.ModelInfer(infer, timeout=10)

        # What is loaded later is found at once, and what is unloaded is refused.
        absent = "MODEL_NOT_FOUND"
        assert await ask(client, "late") == absent
        async with AsyncClient(second.facts["grpc"]) as direct:
            for _ in range(3):
                await direct.load("late")
                assert {await ask(client, "late") for _ in range(3)} == {"n-2:1"}
                await direct.unload("late")
                assert {await ask(client, "late") for _ in range(3)} == {absent}
        await second.kill()
        assert {await ask(client) for _ in range(10)} == {"n-1:2"}
        await wait_for(answered_by(client, "NO_NODE", model="other"))


async def test_calls_are_divided_among_versions_and_labels_name_them(tmp_path: Path) -> None:
    old, new = publish(tmp_path / "old", "m", 1), publish(tmp_path / "new", "m", 2)
    async with running(tmp_path) as mesh, mesh.client() as client:
        await mesh.start_node("old", old)
        await mesh.start_node("new", new)
        await wait_for(answered_by(client, "new:2", version=2))
        assert (await mesh.set_route("m", stable=(1, 80), canary=(2, 20))).kept
        await wait_for(answered_by(client, "new:2", label="canary"))
        await wait_for(answered_by(client, "old:1", label="stable"))
        assert await ask(client, label="nobody") == "MODEL_NOT_FOUND"
        counts = Counter([await ask(client) for _ in range(400)])
        assert 30 < counts["new:2"] < 150, counts  # 80 expected, eight standard deviations are 64
        (route,) = (await mesh.see()).routes
        assert [(label.name, label.version, label.percent) for label in route.labels] == [
            ("stable", 1, 80),
            ("canary", 2, 20),
        ]

        # The control plane comes back with it.
        await mesh.control_child.kill()
        await mesh.supervisor.start([mesh.control_again])

        async def is_back() -> bool:
            seen = await mesh.see()
            return len(seen.nodes) == 2 and len(seen.gateways) == 1

        await wait_for(is_back)
        assert list((await mesh.see()).routes) == [route]
        await wait_for(answered_by(client, "new:2", label="canary"))

        await mesh.set_route("m", stable=(1, 100), canary=(2, 0))
        await wait_for(answered_by(client, "old:1"))
        assert await ask(client, label="canary") == "new:2"
        with pytest.raises(grpc.aio.AioRpcError, match="sum to 30 %"):
            await mesh.set_route("m", stable=(1, 30))


async def test_a_node_with_two_versions_runs_the_one_that_a_share_or_label_is_for(tmp_path: Path) -> None:
    both = publish(tmp_path / "both", "m", 1, 2)
    async with running(tmp_path) as mesh, mesh.client() as client:
        node = await mesh.start_node("n", both)
        await wait_for(answered_by(client, "n:2"))
        await mesh.set_route("m", stable=(1, 50), canary=(2, 50))
        await wait_for(answered_by(client, "n:1", label="stable"))
        counts = Counter([await ask(client) for _ in range(200)])
        assert set(counts) == {"n:1", "n:2"}
        assert 40 < counts["n:1"] < 160, counts  # 100 expected, eight standard deviations are 57
        assert {await ask(client, label="canary") for _ in range(6)} == {"n:2"}
        assert {await ask(client, version=1) for _ in range(6)} == {"n:1"}

        async def stream(*versions: int, label: str = "") -> list[int]:
            async def requests() -> AsyncIterator[Request]:
                for version in versions:
                    yield Request(model="m", inputs={"x0": _X}, version=version, label=label)

            answers = [answer async for answer in client.predict_stream(requests(), deadline_s=30)]
            return [answer.version if isinstance(answer, Prediction) else 0 for answer in answers]

        # A stream stays with the version that it was given; what names one gets that one.
        found = [await stream(0, 0, 2, 1, 0) for _ in range(24)]
        assert {tuple(versions) for versions in found} == {(1, 1, 2, 1, 1), (2, 2, 2, 1, 2)}
        assert await stream(0, 2, 0, label="stable") == [1, 2, 1]

        async with grpc.aio.insecure_channel(mesh.gateway) as channel:
            foreign: Any = open_inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            x = oip.ModelInferRequest.InferInputTensor(name="x0", datatype="FP32", shape=[1, 4])
            infer = oip.ModelInferRequest(model_name="m", inputs=[x], raw_input_contents=[_X.tobytes()])
            assert {(await foreign.ModelInfer(infer, timeout=10)).model_version for _ in range(40)} == {"1", "2"}
            streamed = foreign.ModelStreamInfer(
                timeout=20, metadata=[("x-model-name", "m"), ("x-model-label", "stable")]
            )
            for version, runs in (("", "1"), ("2", "2"), ("", "1")):
                infer.model_version = version
                await streamed.write(infer)
                assert (await streamed.read()).infer_response.model_version == runs
            streamed.cancel()

        # What the gateway tells the node counts for its model alone, and only when it is a version.
        async with grpc.aio.insecure_channel(node.facts["grpc"]) as channel:
            direct: Any = predict_service_pb2_grpc.PredictServiceStub(channel)
            request = pb.PredictRequest(model_name="m", inputs=[tensor("x0", (1, 4))])
            for said, runs in (
                ("m:1", 1),
                ("n:1", 2),
                ("m", 2),
                ("m:", 2),
                ("m:-1", 2),
                ("m:1x", 2),
                (f"m:{1 << 70}", 2),
            ):
                answer = await direct.Predict(request, timeout=10, metadata=[("x-model-default", said)])
                assert answer.model_version == runs, said
            with pytest.raises(grpc.aio.AioRpcError, match="model m:9 is "):
                await direct.Predict(request, timeout=10, metadata=[("x-model-default", "m:9")])


async def test_a_sequence_reaches_the_node_that_has_it_or_is_told_that_it_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "models"
    models.publish(root, models.accumulator("sum", idle_us=60_000_000), onnx_file=models.build_accumulator())
    publish(root, "cached", 1, agent_affinity=True)
    async with running(tmp_path) as mesh:
        children = {name: await mesh.start_node(name, root) for name in ("a", "b", "c")}
        clients = {f"drone-{i}": mesh.client(f"drone-{i}") for i in range(16)}

        async def step(agent: str, *, start: bool = False) -> Prediction:
            inputs = {"x0": np.ones((1, 1), np.float32)}
            return await clients[agent].predict("sum", inputs, deadline_s=10, sequence_id=agent, sequence_start=start)

        async def three_serve() -> bool:
            try:
                return len({(await step(agent, start=True)).node for agent in clients}) == 3
            except StarlingError:
                return False

        async def agents_stay() -> bool:
            return all([len({await ask(client, "cached") for _ in range(6)}) == 1 for client in clients.values()])

        await wait_for(three_serve)
        homes = {agent: (await step(agent, start=True)).node for agent in clients}
        for _ in range(5):
            assert {agent: (await step(agent)).node for agent in clients} == homes
        await wait_for(agents_stay)

        lost = homes["drone-0"]
        await children[lost].kill()

        async def is_gone() -> bool:
            try:
                await step("drone-0")
            except SequenceNotFound:
                return True
            except StarlingError:
                return False
            raise AssertionError("a step was answered without its state")

        await wait_for(is_gone)
        assert (await step("drone-0", start=True)).node != lost
        for agent, home in homes.items():
            if home != lost:
                assert (await step(agent)).node == home
        for client in clients.values():
            await client.close()


async def test_a_stream_outlives_the_node_it_was_on(tmp_path: Path) -> None:
    root = publish(tmp_path / "models", "m", 1, identity_delay_us=5_000)
    async with running(tmp_path) as mesh, mesh.client() as client:
        first = await mesh.start_node("first", root)
        await wait_for(answered_by(client, "first:1"))
        answers: list[Prediction] = []
        begun, drained = asyncio.Event(), asyncio.Event()

        async def send() -> AsyncIterator[Request]:
            for number in range(300):
                if number == 100:
                    await drained.wait()
                yield Request(model="m", inputs={"x0": _X + number}, request_id=f"{number}")

        async def replace() -> None:
            await begun.wait()
            await mesh.start_node("second", root)
            await mesh.drain("first")
            drained.set()

        replacing = asyncio.create_task(replace())
        async for answer in client.predict_stream(send(), in_flight_max=16, deadline_s=120):
            assert isinstance(answer, Prediction), answer
            answers.append(answer)
            if len(answers) == 50:
                begun.set()
        await replacing
        assert await first.wait() == 0
    assert [answer.request_id for answer in answers] == [f"{number}" for number in range(300)]
    assert all(answer["y0"][0, 0] == number for number, answer in enumerate(answers))
    assert {answer.node for answer in answers} == {"first", "second"}


async def test_a_stream_of_the_blocking_client_outlives_the_loss_of_its_node(tmp_path: Path) -> None:
    root = publish(tmp_path / "models", "m", 1, identity_delay_us=2_000)
    async with running(tmp_path) as mesh, mesh.client() as client:
        children = {name: await mesh.start_node(name, root) for name in ("one", "two")}
        await wait_for(answered_by(client, "one:1", "two:1"))
        homes: queue.SimpleQueue[str] = queue.SimpleQueue()
        killed = threading.Event()

        def stream() -> list[Any]:
            def requests() -> Iterator[Request]:
                for number in range(200):
                    if number == 100:
                        killed.wait(60)
                    yield Request(model="m", inputs={"x0": _X + number}, request_id=f"{number}")

            answers = []
            with Client(mesh.gateway) as blocking:
                for answer in blocking.predict_stream(requests(), in_flight_max=8, deadline_s=120):
                    answers.append(answer)
                    if len(answers) == 50:
                        homes.put(answer.node if isinstance(answer, Prediction) else "")
            return answers

        streaming = asyncio.create_task(asyncio.to_thread(stream))
        home = await asyncio.to_thread(homes.get, timeout=60)
        await children[home].kill()
        killed.set()
        answers = await streaming
    assert [answer.request_id for answer in answers] == [f"{number}" for number in range(200)]
    assert {answer.node for answer in answers} == {"one", "two"}


async def test_the_node_sees_the_time_that_the_caller_has_left(tmp_path: Path) -> None:
    root = publish(tmp_path / "models", "m", 1, identity_delay_us=300_000)
    async with running(tmp_path) as mesh, mesh.client() as client:
        await mesh.start_node("n", root)
        await wait_for(answered_by(client, "n:1"))
        answer = await client.predict("m", {"x0": _X}, deadline_s=20)
        assert 10e6 < answer.slack_us + answer.total_us < 21e6  # gRPC rounds up what was given here
        with pytest.raises(StarlingError) as caught:  # and it refuses at once what it cannot do in that time
            await client.predict("m", {"x0": _X}, deadline_s=0.1)
        assert caught.value.reason in ("DEADLINE_UNMEETABLE", "DEADLINE_PASSED")
