"""A model whose engine keeps failing or hangs: it stops serving and says so everywhere, and the others go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starling.inference import open_inference_pb2 as oip
from starling.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

from engines import DataType
from services.client import Client, InternalError, ModelNotReady, ModelState, StarlingError
from tests.support.node import StartNode
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

FAILURES_MAX = 5
ROW = {"x0": np.zeros((1, 4), np.float32)}


def test_a_model_that_keeps_failing_stops_serving_and_the_others_go_on(start_node: StartNode, tmp_path: Path) -> None:
    publish(tmp_path / "models", identity("broken", (DataType.FP32, (4,)), fail_every=1))
    publish(tmp_path / "models", identity("echo", (DataType.FP32, (4,))))
    node = start_node(tmp_path / "models")
    with Client(node.target) as client, node.connect() as channel:
        stub = GRPCInferenceServiceStub(channel)

        def is_ready(name: str) -> bool:
            return bool(stub.ModelReady(oip.ModelReadyRequest(name=name), timeout=20).ready)

        for number in range(FAILURES_MAX):
            assert (client.model("broken").state, is_ready("broken")) == (ModelState.READY, True), number
            with pytest.raises(InternalError) as failed:
                client.predict("broken", ROW, deadline_s=20)
            assert failed.value.reason == "ENGINE_FAILED"
        runs = node.count("starling_executions_total", model="broken")
        reasons = []
        for _ in range(20):
            with pytest.raises(StarlingError) as refused:
                client.predict("broken", ROW, deadline_s=20)
            reasons.append(refused.value.reason)
            if isinstance(refused.value, ModelNotReady):
                assert "times in a row" in str(refused.value)
                assert refused.value.retry_delay_s == 1.0
            assert client.predict("echo", ROW, deadline_s=20).model == "echo"
        # Of all these no more than one a second is tried.
        assert set(reasons) <= {"MODEL_NOT_READY", "ENGINE_FAILED"}
        tried = node.count("starling_executions_total", model="broken") - runs
        assert tried == reasons.count("ENGINE_FAILED") < len(reasons)
        model = client.model("broken")
        assert model.state is ModelState.NOT_SERVING
        assert "tried again every second" in model.status_message
        assert (client.model("echo").state, client.model("echo").status_message) == (ModelState.READY, "")
        assert (is_ready("broken"), is_ready("echo")) == (False, True)
        index = stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True), timeout=20).models
        assert [one.name for one in index] == ["echo"]
        assert node.count("starling_model_healthy", model="broken") == 0
        assert node.count("starling_model_healthy", model="echo") == 1


def test_a_run_that_hangs_is_given_up_and_the_model_is_back_when_the_engine_is(
    start_node: StartNode, tmp_path: Path
) -> None:
    hangs = replace(identity("hangs", (DataType.FP32, (4,)), delay_us=600_000), watchdog_ms=150)
    publish(tmp_path / "models", hangs)
    publish(tmp_path / "models", identity("echo", (DataType.FP32, (4,))))
    node = start_node(tmp_path / "models")
    with Client(node.target) as client:
        for number in (1, 2):
            assert wait_until(lambda: client.model("hangs").state is ModelState.READY)
            with pytest.raises(InternalError, match="took longer than 150000 us and was given up") as failed:
                client.predict("hangs", ROW, deadline_s=30)
            assert client.predict("echo", ROW, deadline_s=20).model == "echo"
            assert int(failed.value.metadata["compute_us"]) >= 150_000
            assert node.count("starling_hung_runs_total", model="hangs") == number
            assert node.count("starling_hung_runs_total", model="echo") == 0
