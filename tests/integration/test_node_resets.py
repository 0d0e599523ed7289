"""Clients that reset thousands of calls: the node computes little of it, keeps nothing of it and serves the others.

Model `slow` runs one request in 5 ms, so that nearly all that are reset wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from starling.inference.open_inference_pb2 import ModelInferRequest
from starling.predict.v1.predict_service_pb2 import PredictRequest

from engines import DataType
from services.client import Client
from tests.support.infer_calls import INFER, add_input, zeros
from tests.support.node import RunningNode, running_node
from tests.support.node_calls import PREDICT, raw_method, tensor
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

WIDTH = 8192
CALLS = 3000
OUTSTANDING = 48
# Less than a fifth of the bytes that are sent and reset.
GROWTH_BYTES_MAX = CALLS * WIDTH * 4 / 5


def predict_message() -> bytes:
    return PredictRequest(model_name="slow", inputs=[tensor("x0", (1, WIDTH))]).SerializeToString()


def infer_message() -> bytes:
    request = ModelInferRequest(model_name="slow")
    add_input(request, "x0", "FP32", (1, WIDTH), zeros("FP32", (1, WIDTH)))
    return request.SerializeToString()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("resets")
    publish(root / "models", identity("slow", (DataType.FP32, (WIDTH,)), delay_us=5000, queue_max=2 * OUTSTANDING))
    publish(root / "models", identity("echo", (DataType.FP32, (64,))))
    with running_node(root, root / "models") as node:
        yield node


def reset(node: RunningNode, method: str, message: bytes, calls: int) -> None:
    """Sends calls and resets each when so many more are on their way."""
    outstanding: deque[grpc.Future[bytes]] = deque()
    with node.connect() as channel:
        call = raw_method(channel, method)
        for _ in range(calls):
            outstanding.append(call.future(message, timeout=30))  # type: ignore[attr-defined]
            if len(outstanding) == OUTSTANDING:
                outstanding.popleft().cancel()
        for last in outstanding:
            last.cancel()


def is_at_rest(node: RunningNode) -> bool:
    return node.count("starling_calls_in_flight") == node.count("starling_queue_requests") == 0


@pytest.mark.parametrize(("method", "message"), [(PREDICT, predict_message()), (INFER, infer_message())])
def test_thousands_of_reset_calls_leave_nothing_behind(node: RunningNode, method: str, message: bytes) -> None:
    reset(node, method, message, 4 * OUTSTANDING)  # what is allocated once is allocated now
    assert wait_until(lambda: is_at_rest(node))
    memory = node.count("process_resident_memory_bytes")
    cancelled = node.count("starling_requests_total", model="slow", reason="CANCELLED")
    runs = node.count("starling_executions_total", model="slow")
    storm = threading.Thread(target=reset, args=(node, method, message, CALLS))
    served = 0
    with Client(node.target) as other:
        storm.start()
        while storm.is_alive():
            answer = other.predict("echo", {"x0": np.full((1, 64), served, np.float32)}, deadline_s=5)
            assert answer["y0"][0, 0] == served
            served += 1
        storm.join()
        assert served > 0
        assert wait_until(lambda: is_at_rest(node))
        cancelled = node.count("starling_requests_total", model="slow", reason="CANCELLED") - cancelled
        runs = node.count("starling_executions_total", model="slow") - runs
        assert cancelled > CALLS / 2
        assert runs < CALLS - cancelled + 1
        assert node.count("process_resident_memory_bytes") - memory < GROWTH_BYTES_MAX
        assert other.predict("slow", {"x0": np.zeros((1, WIDTH), np.float32)}, deadline_s=5).model == "slow"
