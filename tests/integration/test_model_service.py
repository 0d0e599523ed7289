"""ModelService over the wire: what a node says about its models, and changing them while it serves."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from starling.predict.v1.model_service_pb2 import GetModelRequest
from starling.predict.v1.model_service_pb2_grpc import ModelServiceStub

from engines import DataType
from services.client import (
    Client,
    FailedPrecondition,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ModelState,
    StarlingError,
)
from tests.support.node import RunningNode, StartNode, running_node
from tests.support.node_calls import read_refusal
from tests.support.node_models import build_detector, build_plus_one, detector, identity, plus_one, publish
from tests.support.waiting import wait_until

FP32 = DataType.FP32
ECHO = {"x0": np.zeros((1, 4), np.float32)}


def populate(root: Path) -> Path:
    """Publishes `echo` in two versions of which the higher is served, and others."""
    for version in (1, 2):
        publish(root, identity("echo", (FP32, (4,)), rows=4, preferred=(2,)), version=version)
    publish(root, identity("slow", (FP32, (4,)), delay_us=40_000))
    publish(root, plus_one(), onnx_file=build_plus_one(), license="Apache-2.0")
    publish(root, detector(), onnx_file=build_detector())
    return root


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a node that tests only look at."""
    folder = tmp_path_factory.mktemp("reader")
    with running_node(folder, populate(folder / "models")) as node, Client(node.target) as client:
        yield client


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The same repository for one test, which may change it."""
    return populate(tmp_path / "models")


@pytest.fixture
def own(start_node: StartNode, models: Path) -> RunningNode:
    """A node over that repository, with the models that the test names."""
    return start_node(models, "--model", "echo", "--model", "slow")


@pytest.fixture
def client(own: RunningNode) -> Iterator[Client]:
    with Client(own.target) as client:
        yield client


@contextmanager
def load(client: Client, model: str = "echo", threads: int = 4) -> Iterator[list[StarlingError]]:
    """Keeps a model busy; collects whatever is not an answer."""
    errors: list[StarlingError] = []
    answered = threading.Semaphore(0)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                client.predict(model, ECHO, deadline_s=10)
                answered.release()
            except StarlingError as error:
                errors.append(error)
                return

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(threads):
            pool.submit(run)
        try:
            for _ in range(4 * threads):
                assert answered.acquire(timeout=10)
            yield errors
            for _ in range(4 * threads):
                assert errors or answered.acquire(timeout=10)
        finally:
            stop.set()


def test_every_version_is_listed_by_name_and_version_with_its_state(reader: Client) -> None:
    listed = [(model.name, model.version, model.state) for model in reader.models()]
    assert listed == [
        ("colours", 1, ModelState.READY),
        ("echo", 1, ModelState.AVAILABLE),
        ("echo", 2, ModelState.READY),
        ("plus-one", 1, ModelState.READY),
        ("slow", 1, ModelState.READY),
    ]
    assert [(model.name, model.version) for model in reader.models("echo")] == [("echo", 1), ("echo", 2)]
    assert reader.models("nobody") == ()


def test_a_ready_model_tells_everything_an_agent_needs(reader: Client) -> None:
    model = reader.model("plus-one")
    assert (model.name, model.version, model.state, model.status_message) == ("plus-one", 1, ModelState.READY, "")
    assert (model.engine, model.license) == ("openvino_cpu", "Apache-2.0")
    assert [str(tensor) for tensor in (*model.inputs, *model.outputs)] == ["x FP32[batch, 3]", "y FP32[batch, 3]"]
    assert (model.max_batch_size, tuple(model.batch_buckets)) == (4, (1, 2, 4))
    assert [timing.batch_size for timing in model.timings] == [1, 2, 4]
    assert all(0 < timing.p50_us <= timing.p99_us for timing in model.timings)
    assert {"INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS"} <= model.engine_properties.keys()
    timing = reader.model("slow").timings[0]
    assert 40_000 <= timing.p50_us < 400_000
    assert 40_000 <= timing.expected_p50_us <= timing.expected_p90_us


def test_what_admission_keeps_free_grows_when_answers_come_later_than_predicted(
    own: RunningNode, client: Client
) -> None:
    name = "starling_admission_margin_seconds"
    with ThreadPoolExecutor(1) as pool:

        def delay_an_answer() -> bool:
            answer = pool.submit(client.predict, "slow", ECHO, deadline_s=60)
            assert wait_until(lambda: answer.done() or own.count("starling_calls_in_flight") == 1)
            end_s = time.monotonic() + 2 * client.model("slow").timings[0].expected_p90_us / 1e6
            own.process.send_signal(signal.SIGSTOP)
            try:
                assert wait_until(lambda: time.monotonic() > end_s)
            finally:
                own.process.send_signal(signal.SIGCONT)
            return answer.result().version == 1 and own.count(name, model="slow") > 0

        # An answer that was quicker than the signal is not late.
        assert wait_until(delay_an_answer)
    model = client.model("slow")
    assert model.admission_margin_us == round(own.count(name, model="slow") * 1e6)
    assert 0 < model.admission_margin_us <= model.timings[0].expected_p90_us
    for quantile, expected_us in (("0.5", model.timings[0].expected_p50_us), ("0.9", model.timings[0].expected_p90_us)):
        estimate_s = own.count("starling_run_time_estimate_seconds", model="slow", quantile=quantile)
        assert round(estimate_s * 1e6) == expected_us
    assert client.model("echo").admission_margin_us is not None
    assert client.model("echo", 1).admission_margin_us is None


def test_labels_belong_to_the_output_that_has_them(reader: Client) -> None:
    model = reader.model("colours")
    assert {output.name: output.labels for output in model.outputs} == {
        "boxes": (),
        "scores": (),
        "classes": ("person",),
        "count": (),
    }
    assert [str(tensor) for tensor in (*model.inputs, *model.outputs)] == [
        "frame UINT8[batch, ?, ?, 3]",
        "boxes FP32[batch, 100, 4]",
        "scores FP32[batch, 100]",
        "classes INT32[batch, 100]",
        "count INT32[batch]",
    ]


def test_no_version_means_the_highest_that_is_ready(client: Client) -> None:
    assert client.model("echo").version == 2
    assert client.predict("echo", ECHO).version == 2
    available = client.model("echo", 1)
    assert (available.state, available.engine, available.timings) == (ModelState.AVAILABLE, "", ())
    client.unload("echo", 2)
    client.load("echo", 1)
    assert client.model("echo").version == 1
    assert client.predict("echo", ECHO).version == 1


def test_another_version_is_loaded_while_the_first_serves(client: Client) -> None:
    with load(client) as errors:
        loaded = client.load("echo", 1)
        assert (loaded.version, loaded.state) == (1, ModelState.READY)
        assert client.predict("echo", ECHO, version=1).version == 1
        assert client.predict("echo", ECHO).version == 2
        assert client.load("plus-one").state is ModelState.READY
    assert errors == []


def test_a_new_version_takes_over_without_a_lost_request(client: Client, models: Path) -> None:
    with load(client) as errors:
        publish(models, identity("echo", (FP32, (4,))), version=3)
        assert client.load("echo").version == 3
        assert [model.version for model in client.unload("echo", 2)] == [2]
        assert client.predict("echo", ECHO).version == 3
    assert errors == []


def test_loading_a_loaded_version_changes_nothing(own: RunningNode, client: Client) -> None:
    for _ in range(3):
        client.predict("echo", ECHO)
    with ThreadPoolExecutor(4) as pool:
        states = {model.state for model in pool.map(lambda _: client.load("echo", 2), range(8))}
    assert states == {ModelState.READY}
    assert own.count("starling_requests_total", model="echo", reason="OK") == 3


def test_a_version_being_loaded_is_seen_and_does_not_hold_up_others(client: Client, models: Path) -> None:
    publish(models, identity("heavy", (FP32, (4,)), delay_us=300_000))
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(client.load, "heavy")
        assert wait_until(lambda: client.model("heavy").state is ModelState.LOADING)
        with pytest.raises(ModelNotReady):
            client.predict("heavy", ECHO)
        assert client.predict("echo", ECHO).version == 2
        assert not loading.done()
        assert loading.result().state is ModelState.READY
    assert client.predict("heavy", ECHO).version == 1


def test_requests_that_wait_are_answered_before_their_model_goes(own: RunningNode, client: Client) -> None:
    with ThreadPoolExecutor(13) as pool:
        waiting = [pool.submit(client.predict, "slow", ECHO, deadline_s=10) for _ in range(12)]
        assert wait_until(lambda: own.count("starling_calls_in_flight") + sum(one.done() for one in waiting) >= 12)
        unloading = pool.submit(client.unload, "slow")
        assert wait_until(lambda: client.model("slow").state is ModelState.DRAINING or unloading.done())
        with pytest.raises(ModelNotReady) as caught:
            client.predict("slow", ECHO)
        assert [one.result().version for one in waiting] == [1] * 12
        (model,) = unloading.result()
    assert "model slow is in the repository of node node-1 but not loaded" in str(caught.value)
    assert (model.name, model.version, model.state) == ("slow", 1, ModelState.AVAILABLE)
    assert client.load("slow").state is ModelState.READY
    assert client.predict("slow", ECHO).version == 1


def test_unloading_without_a_version_unloads_all_of_them(client: Client) -> None:
    client.load("echo", 1)
    assert [model.version for model in client.unload("echo")] == [1, 2]
    assert {model.state for model in client.models("echo")} == {ModelState.AVAILABLE}
    with pytest.raises(ModelNotFound, match=r"model echo is not loaded; ModelService\.ListModels shows"):
        client.unload("echo")


def test_what_is_loaded_serves_on_when_its_files_go(client: Client, models: Path) -> None:
    shutil.rmtree(models / "echo")
    assert client.predict("echo", ECHO).version == 2
    (model,) = client.models("echo")
    assert (model.version, model.state, model.engine) == (2, ModelState.READY, "identity_cpu")
    assert "there is no model 'echo'" in model.status_message
    client.unload("echo", 2)
    assert client.models("echo") == ()


def test_errors_are_typed_and_say_what_was_found(reader: Client) -> None:
    for call, name, version, kind, says in (
        (reader.load, "nobody", 0, ModelNotFound, "there is no model 'nobody'; pull"),
        (reader.load, "echo", 9, ModelNotFound, "there is no version 9 of model 'echo'; found [2, 1];"),
        (reader.load, "echo", -1, ModelNotFound, "there is no version -1 of model 'echo'"),
        (reader.load, "../models/echo", 0, InvalidInput, "is not a model name; expected the name of a folder"),
        (reader.load, "", 0, InvalidInput, "'' is not a model name"),
        (reader.model, "nobody", 0, ModelNotFound, "pull or publish it first"),
        (reader.model, "echo", 9, ModelNotFound, "there is no version 9"),
        (reader.model, "..", 0, InvalidInput, "is not a model name"),
        (reader.unload, "nobody", 0, ModelNotFound, "model nobody is not loaded"),
        (reader.unload, "echo", 1, ModelNotFound, "model echo:1 is not loaded"),
    ):
        with pytest.raises(kind) as caught:
            call(name, version)
        assert says in str(caught.value)
        assert caught.value.reason == kind.default_reason


def test_a_version_that_cannot_be_loaded_is_failed_until_it_can(client: Client, models: Path) -> None:
    publish(models, plus_one("broken"), onnx_file=b"no graph")
    with pytest.raises(FailedPrecondition, match="not a readable model") as caught:
        client.load("broken")
    assert (caught.value.reason, client.model("broken").state) == ("CORRUPT_MODEL", ModelState.FAILED)
    assert client.model("broken").status_message.startswith("broken/1/model.onnx: not a readable model")
    publish(models, plus_one("broken"), onnx_file=build_plus_one())
    assert client.load("broken").state is ModelState.READY
    (models / "slow" / "config.pbtxt").write_text('name: "slow" backend: 7\n')
    client.unload("slow")
    with pytest.raises(FailedPrecondition, match="`backend` is `7`") as caught:
        client.load("slow")
    assert caught.value.reason == "INVALID_CONFIG"
    assert caught.value.metadata["line"] == "1"


def test_callers_are_told_files_by_their_place_in_the_repository(
    own: RunningNode, client: Client, models: Path, tmp_path: Path
) -> None:
    for name in ("cut", "linked"):
        publish(models, plus_one(name), onnx_file=build_plus_one())
    (models / "cut" / "1" / "model.onnx").write_bytes(b"no graph")
    (models / "linked" / "1" / "manifest.json").rename(tmp_path / "outside")
    (models / "linked" / "1" / "manifest.json").symlink_to(tmp_path / "outside")
    said = {}
    for name in ("cut", "linked"):
        with pytest.raises(FailedPrecondition) as caught:
            client.load(name)
        said[name] = [str(caught.value), *caught.value.metadata.values(), *map(str, client.models(name))]
    (models / "slow" / "config.pbtxt").write_text("name: 3\n")
    said["slow"] = [one.status_message for one in client.models("slow")]
    assert said["cut"][0].startswith("cut/1/model.onnx: 8 bytes; expected ")
    assert said["linked"][0].startswith("linked/1/manifest.json: leads outside of the repository; copy the file")
    assert said["slow"][0].startswith("slow/config.pbtxt:1: ")
    assert not [text for texts in said.values() for text in texts if str(tmp_path) in text]
    assert f"{models}/cut/1/model.onnx: 8 bytes" in own.log


def test_too_many_calls_at_once_are_refused_with_a_delay(own: RunningNode, client: Client, models: Path) -> None:
    # Four loads, one after the other, keep the four workers busy, the first for long enough to send all this; then 64
    # calls may wait.
    for number in range(4):
        publish(models, identity(f"heavy-{number}", (FP32, (4,)), delay_us=400_000))
    with ThreadPoolExecutor(4) as pool, own.connect() as channel:
        loads = [pool.submit(client.load, f"heavy-{number}") for number in range(4)]
        assert wait_until(lambda: own.count("starling_calls_in_flight") == 4)
        stub = ModelServiceStub(channel)
        calls = [stub.GetModel.future(GetModelRequest(name="echo"), timeout=20) for _ in range(80)]
        refusals = [read_refusal(error) for error in (call.exception() for call in calls) if error is not None]
        assert {model.result().state for model in loads} == {ModelState.READY}
    # Of the 80 at most 64 find a place: up to four fewer while a load is in flight but not out of the queue yet.
    assert 16 <= len(refusals) <= 20
    assert {(one.code.name, one.reason, one.retry_s) for one in refusals} == {("RESOURCE_EXHAUSTED", "QUEUE_FULL", 1.0)}
    assert refusals[0].text.startswith("too many control calls wait on node node-1, at most 64; retry")
