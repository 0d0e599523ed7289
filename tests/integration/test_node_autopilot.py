"""The autopilot of a real node: what it says, what it does, and that its log decides the same again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starling.predict.v1 import model_service_pb2 as pb
from starling.predict.v1.model_service_pb2_grpc import ModelServiceStub

from engines import Autopilot, DataType
from services.client import Client, StarlingError
from tests.support.node import RunningNode, StartNode
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

_ROW = {"x0": np.zeros((1, 4), np.float32)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """One engine three times: runs of 10 ms, of which two at once fit no objective of 5 ms."""
    root = tmp_path / "models"
    slow = replace(
        identity("plain", (DataType.FP32, (4,)), rows=4, preferred=(2,), delay_us=10_000),
        instance_count=2,
        batch_delay_us=4_000,
    )
    publish(root, slow)
    publish(root, replace(slow, name="advised", slo_p99_ms=5.0, autopilot=Autopilot.ADVISE))
    publish(root, replace(slow, name="steered", slo_p99_ms=5.0, autopilot=Autopilot.ACT))
    return root


def autopilot_of(node: RunningNode, name: str) -> pb.Autopilot | None:
    with node.connect() as channel:
        model = ModelServiceStub(channel).GetModel(pb.GetModelRequest(name=name), timeout=10).model
    return model.autopilot if model.HasField("autopilot") else None


def load_until(node: RunningNode, name: str, enough: Callable[[], bool]) -> bool:
    """Keeps four callers at a model until something is so."""
    done = False

    def call() -> None:
        with Client(node.target) as client:
            while not done:
                try:
                    client.predict(name, _ROW, deadline_s=2)
                except StarlingError:  # refusals are what some settings are for
                    continue

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call) for _ in range(4)]
        try:
            found = wait_until(enough)
        finally:
            done = True
        for caller in callers:
            caller.result()
    return found


def replay(log: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-P", "-m", "services.host.cli", "autopilot", "replay", str(log), *flags)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_advice_is_said_and_changes_nothing(start_node: StartNode, models: Path) -> None:
    node = start_node(models)
    assert autopilot_of(node, "plain") is None
    first = autopilot_of(node, "advised")
    assert first is not None
    assert (first.mode, first.slo_p99.ToMicroseconds()) == (pb.AUTOPILOT_MODE_ADVISE, 5000)
    assert (first.applied.max_batch_size, first.applied.concurrency) == (4, 2)
    assert first.applied.batch_delay.ToMicroseconds() == 4000

    def advises() -> bool:
        now = autopilot_of(node, "advised")
        return now is not None and now.advised != now.applied

    assert load_until(node, "advised", advises)
    last = autopilot_of(node, "advised")
    assert last is not None
    assert last.applied == first.applied
    assert last.p99.ToMicroseconds() > 5000
    assert last.change_counts
    assert node.count("starling_autopilot_changes_total", model="advised") >= 1
    assert node.count("starling_autopilot_concurrency", model="advised", setting="applied") == 2
    assert node.count("starling_slo_p99_seconds", model="advised") == 0.005


def test_one_that_acts_moves_the_queue_and_its_log_replays(start_node: StartNode, models: Path, tmp_path: Path) -> None:
    log = tmp_path / "autopilot.jsonl"
    node = start_node(models, "--autopilot-log", str(log))
    first = autopilot_of(node, "steered")
    assert first is not None

    def moved() -> bool:
        now = autopilot_of(node, "steered")
        return now is not None and now.applied != first.applied

    assert load_until(node, "steered", moved)
    assert node.count("starling_requests_total", model="steered", reason="OK") > 0
    node.terminate()
    assert node.wait() == 0, node.log
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {one["model"] for one in records} == {"steered"}
    assert [one["number"] for one in records] == list(range(1, len(records) + 1))
    done = replay(log)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(records)} decisions" in done.stdout
    assert "all as logged" in done.stdout
    # By an objective that is always kept nothing would have been pressed for.
    relaxed = replay(log, "--slo-p99-ms", "60000")
    assert relaxed.returncode == 1
    assert "differ" in relaxed.stdout


def test_two_nodes_do_not_share_a_log(start_node: StartNode, models: Path, tmp_path: Path) -> None:
    log = tmp_path / "autopilot.jsonl"
    start_node(models, "--autopilot-log", str(log))
    flags = ["--repository", str(models), "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    second = subprocess.run(
        (sys.executable, "-P", "-m", "services.host.cli", "node", *flags, "--autopilot-log", str(log)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode != 0
    assert "is written by another node" in second.stderr
