"""Clients of others work unchanged, each in a process of its own: on a node, and through the gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import DataType
from mesh.local_mesh import MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.host import Address
from tests.support.clients import Clients, install_clients
from tests.support.node import RunningNode, running_node
from tests.support.node_models import accumulator, build_accumulator, build_plus_one, identity, plus_one, publish

FP32 = DataType.FP32
SCRIPTS = {
    "triton_grpc.py": "management repository infer texts background stream regions",
    "triton_aio.py": "management infer stream",
    "triton_sequences.py": "interleaved stream refusals config",
    "kserve_grpc.py": "kserve",
}
# Enough to see that it measures: three windows of so many requests, however they differ. Not --request-count, which
# waits for ever where a request ends before the measurement begins. Figures come from `starling bench`.
_REQUESTS = 100
_WINDOWS = (
    *("--measurement-mode", "count_windows", "--measurement-request-count", str(_REQUESTS)),
    *("--stability-percentage", "100000"),
)
PERF = {
    "alone": ("-m", "echo", "--concurrency-range", "1"),
    "many": ("-m", "echo", "--concurrency-range", "8", "--async"),
    "batches": ("-m", "echo", "--concurrency-range", "4", "-b", "4"),
    "no batch": ("-m", "whole", "--concurrency-range", "4"),
    "sequences": ("-m", "sum", "--num-of-sequences", "4", "--sequence-length", "20", "--streaming"),
    "shared memory": ("-m", "echo", "--concurrency-range", "4", "--shared-memory", "system"),
    "stream": ("-m", "echo", "--concurrency-range", "4", "--streaming", "--async"),
    "stream through memory": (
        *("-m", "echo", "--concurrency-range", "4", "--streaming", "--async"),
        *("--shared-memory", "system"),
    ),
}


@pytest.fixture(scope="session")
def clients() -> Clients:
    return install_clients()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clients") / "models"
    publish(root, identity("echo", (FP32, (64,)), rows=8, preferred=(2, 4)))
    publish(root, identity("whole", (FP32, (2, 3)), rows=0))
    publish(root, identity("texts", (DataType.BYTES, (-1,)), rows=4))
    publish(root, identity("slow", (FP32, (4,)), delay_us=100_000, queue_max=4))
    publish(root, accumulator("sum"), onnx_file=build_accumulator())
    for name in ("plus-one", "other"):
        publish(root, plus_one(name), onnx_file=build_plus_one())
    return root


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node"), models) as node:
        yield node
        assert node.process.poll() is None, f"the node ended\n{node.log}"


def measure(clients: Clients, target: str, *runs: tuple[str, ...]) -> None:
    """Runs perf_analyzer, once for each of the flags."""
    for flags in runs:
        text = clients.perf_analyzer("-u", target, "-i", "grpc", *_WINDOWS, *flags)
        throughput = re.search(r"Throughput: ([\d.]+) infer/sec", text)
        assert throughput, text
        assert float(throughput[1]) > 0, text
        # What the node says of the same requests.
        inferences = re.search(r"Inference count: (\d+)", text)
        assert inferences, text
        assert int(inferences[1]) >= _REQUESTS, text


async def measure_in_every_way(clients: Clients, target: str) -> None:
    """Side by side, but for those that would unregister each other's memory."""
    shared = [flags for flags in PERF.values() if "--shared-memory" in flags]
    groups = [shared, *([flags] for flags in PERF.values() if flags not in shared)]
    await asyncio.gather(*(asyncio.to_thread(measure, clients, target, *group) for group in groups))


@pytest.mark.parametrize("script", SCRIPTS)
def test_clients_work_unchanged_on_a_node(clients: Clients, node: RunningNode, script: str) -> None:
    assert clients.run(script, node.target).strip() == SCRIPTS[script]


async def test_perf_analyzer_measures_a_node(clients: Clients, node: RunningNode) -> None:
    await measure_in_every_way(clients, node.target)


async def test_all_of_them_work_through_the_gateway(clients: Clients, models: Path, tmp_path: Path) -> None:
    plan = MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=models,
        models=(),
        edges=1,
        clouds=0,
        rtt_ms=0,
        run_dir=tmp_path,
    )
    async with Supervisor() as supervisor:
        target = str((await start_mesh(supervisor, plan)).gateway)
        for script, steps in SCRIPTS.items():
            assert (await asyncio.to_thread(clients.run, script, target)).strip() == steps
        await measure_in_every_way(clients, target)
