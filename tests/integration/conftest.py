"""Fixtures of the tests that run a real node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from engines import DataType
from services.client import Client
from tests.support import node_models as models
from tests.support.node import RunningNode, StartNode, node_flags, running_node


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that tests only read; `start_node` takes any other one."""
    root = tmp_path_factory.mktemp("models")
    fp32 = DataType.FP32
    for config in (
        models.identity("echo", (fp32, (64,)), rows=8, preferred=(2, 4)),
        models.identity("bytes", (DataType.UINT8, (-1,)), rows=4),
        models.identity("every-type", *((kind, (3,)) for kind in models.TYPES), rows=4),
        models.identity("floats", (fp32, (-1,))),
        models.identity("halves", (DataType.FP16, (3,)), (DataType.BF16, (3,))),
        models.identity("texts", (DataType.BYTES, (-1,)), rows=4),
        models.identity("typed", *((kind, (3,)) for kind in models.TYPES if kind != DataType.FP16), rows=4),
        models.identity("batched", (fp32, (-1,)), rows=8, preferred=(2, 4), delay_us=2_000),
        models.identity("slow", (fp32, (4,)), delay_us=100_000, queue_max=4),
        models.identity("broken", (fp32, (4,)), fail_every=1),
    ):
        models.publish(root, config)
    models.publish(root, models.plus_one(), onnx_file=models.build_plus_one(), license="Apache-2.0")
    models.publish(root, models.lengths(), files=models.build_lengths())
    models.publish(root, models.detector(), onnx_file=models.build_detector())
    return root


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[RunningNode]:
    """One node for the tests of a file that leave it as it was."""
    with running_node(tmp_path_factory.mktemp("node"), repository, "--message-mib-max", "4") as node:
        yield node
        assert node.process.poll() is None, f"the node ended\n{node.log}"


@pytest.fixture(scope="module")
def client(node: RunningNode) -> Iterator[Client]:
    """A client of that node."""
    with Client(node.target) as client:
        yield client


@pytest.fixture(scope="module")
def channel(node: RunningNode) -> Iterator[grpc.Channel]:
    """A plain channel to that node."""
    with node.connect() as channel:
        yield channel


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Starts nodes for one test: `start_node(repository, *flags, ready=True, grpc="127.0.0.1:0")`."""
    with ExitStack() as stack:

        def start(repository: Path, *flags: str, ready: bool = True, **addresses: str) -> RunningNode:
            node = stack.enter_context(RunningNode(tmp_path, node_flags(repository, *flags, **addresses)))
            return node.wait_ready() if ready else node

        yield start
