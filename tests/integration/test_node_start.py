"""Why a node does not start, or starts without a model: each time what was found, what was expected, what to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines import DataType
from services.client import Client, FailedPrecondition, ModelNotReady, ModelState
from tests.support.node import RunningNode, StartNode
from tests.support.node_models import build_plus_one, identity, plus_one, publish

Failing = Callable[..., str]


@pytest.fixture
def fail_to_start(start_node: StartNode) -> Failing:
    """Starts a node that cannot serve; returns what it says to people."""

    def start(repository: Path, *flags: str, exit_code: int = 1, **addresses: str) -> str:
        node = start_node(repository, *flags, ready=False, **addresses)
        assert node.wait() == exit_code
        assert node.process.stdout is not None
        assert node.process.stdout.read() == b""
        assert "Traceback" not in node.log
        lines = [line for line in node.log.splitlines() if line.startswith("starling node")]
        return node.log[node.log.index(lines[0]) :].strip()

    return start


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository of its own with one small model."""
    publish(tmp_path / "models", identity("echo", (DataType.FP32, (64,))))
    return tmp_path / "models"


def add_plus_one(models: Path, name: str = "plus-one") -> Path:
    """Publishes a graph; returns the folder of its version."""
    publish(models, plus_one(name), onnx_file=build_plus_one())
    return models / name / "1"


def truncate(folder: Path, *, tell_manifest: bool) -> None:
    """Cuts a model file in half, as a full disk or a lost connection does."""
    path = folder / "model.onnx"
    data = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(data)
    if tell_manifest:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][0].update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("flag", ["grpc", "metrics"])
def test_a_second_node_does_not_share_the_ports_of_the_first(
    start_node: StartNode, fail_to_start: Failing, models: Path, flag: str
) -> None:
    first = start_node(models)
    address = first.target if flag == "grpc" else first.metrics_address
    text = fail_to_start(models, **{flag: address})
    assert text.startswith(f"starling node: {'metrics ' if flag == 'metrics' else ''}address {address} can")
    assert f"choose another with --{flag}, port 0 picks a free one" in text
    with Client(first.target) as client:
        assert client.predict("echo", {"x0": np.zeros((1, 64), np.float32)}).node == "node-1"


def test_an_address_of_another_machine_is_refused(fail_to_start: Failing, models: Path) -> None:
    assert "the host is not this machine's" in fail_to_start(models, grpc="192.0.2.1:0")


def test_contradictory_and_unknown_settings_are_listed_together(fail_to_start: Failing, models: Path) -> None:
    text = fail_to_start(models, "--tier", "moon", "--grace-s", "0", "--model-dir", "x", exit_code=2)
    assert "--tier: found 'moon'" in text
    assert "--grace-s: found '0'" in text
    assert "--model-dir" in text
    text = fail_to_start(models, grpc="127.0.0.1:8001", metrics="127.0.0.1:8001", exit_code=2)
    assert "--grpc and --metrics are both 127.0.0.1:8001" in text


def test_a_repository_that_is_no_folder_is_refused_before_anything_starts(
    fail_to_start: Failing, tmp_path: Path
) -> None:
    assert str(tmp_path / "nowhere") in fail_to_start(tmp_path / "nowhere", exit_code=2)


def test_an_empty_repository_says_how_to_fill_it(fail_to_start: Failing, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    text = fail_to_start(tmp_path / "models")
    assert text == (
        f"starling node: repository {tmp_path / 'models'} has no model; fetch one with `starling models pull nanodet`"
    )


def test_an_unknown_model_is_named(fail_to_start: Failing, models: Path) -> None:
    text = fail_to_start(models, "--model", "echo", "--model", "nanodat")
    looked_for = models / "nanodat" / "config.pbtxt"
    assert f"there is no model 'nanodat'; pull or publish it first (looked for {looked_for})" in text


def test_a_model_without_versions_is_named(fail_to_start: Failing, models: Path) -> None:
    (models / "echo" / "1").rename(models / "echo" / "old")
    assert "model 'echo' has no version; found none;" in fail_to_start(models, "--model", "echo")


def test_a_file_that_is_not_what_its_manifest_says_is_not_even_opened(fail_to_start: Failing, models: Path) -> None:
    folder = add_plus_one(models)
    size = (folder / "model.onnx").stat().st_size
    truncate(folder, tell_manifest=False)
    text = fail_to_start(models, "--model", "plus-one")
    assert f"{folder / 'model.onnx'}: {size // 2} bytes; expected {size} bytes; publish the model again" in text


def test_a_truncated_graph_is_corrupt(fail_to_start: Failing, models: Path) -> None:
    folder = add_plus_one(models)
    truncate(folder, tell_manifest=True)
    text = fail_to_start(models, "--model", "plus-one")
    assert f"{folder / 'model.onnx'}: not a readable model: " in text
    assert text.endswith("pull or publish it again")


def test_broken_models_do_not_stop_the_others_and_each_says_why(start_node: StartNode, models: Path) -> None:
    expected = {("echo", 1): "", **break_models(models)}
    expected |= {("half", 1): "", ("half", 2): "not a readable model"}
    publish(models, plus_one("half"), onnx_file=build_plus_one())
    publish(models, plus_one("half"), version=2, onnx_file=build_plus_one())
    edit(models / "half", "num_versions: 1", "num_versions: 2")
    truncate(models / "half" / "2", tell_manifest=True)

    node = start_node(models, "--require-manifests")
    assert node.models == ("echo:1", "half:1")
    with Client(node.target) as client:
        found = {(model.name, model.version): model for model in client.models()}
        assert found.keys() == expected.keys()
        for key, says in expected.items():
            assert found[key].state is (ModelState.FAILED if says else ModelState.READY)
            assert says in found[key].status_message
            assert says in node.log
        with pytest.raises(ModelNotReady) as caught:
            client.predict("cut", {"x": np.zeros((1, 3), np.float32)})
        assert str(caught.value).startswith(
            "model cut is in the repository of node node-1 but not loaded; loaded: echo:1"
        )
        with pytest.raises(FailedPrecondition, match="not a readable model") as refused:
            client.load("cut")
        assert refused.value.reason == "CORRUPT_MODEL"


def test_a_version_without_a_manifest_is_served_with_a_warning(start_node: StartNode, models: Path) -> None:
    (add_plus_one(models, "unsigned") / "manifest.json").unlink()
    node = start_node(models)
    assert node.models == ("echo:1", "unsigned:1")
    assert "model unsigned:1 has no manifest: its files are served unchecked" in node.log


def break_models(models: Path) -> dict[tuple[str, int], str]:
    """Publishes one model for each way to be broken; returns what is said about it."""
    said: dict[tuple[str, int], str] = {}
    for name, data in (("noise", bytes(range(256)) * 40), ("text", b"not a graph"), ("zero", b"\0")):
        publish(models, plus_one(name), onnx_file=data)
        said[name, 1] = f"{name}/1/model.onnx: not a readable model"
    truncate(add_plus_one(models, "cut"), tell_manifest=True)
    said["cut", 1] = "cut/1/model.onnx: not a readable model"
    truncate(add_plus_one(models, "tampered"), tell_manifest=False)
    said["tampered", 1] = "publish the model again"
    (add_plus_one(models, "unsigned") / "manifest.json").unlink()
    said["unsigned", 1] = "a version is only loaded with its manifest"
    (add_plus_one(models, "extra") / "run.sh").write_text("")
    said["extra", 1] = "is not in the manifest; expected only listed files; remove it"
    for name, old, new, says in (
        ("dims", "[ 3 ]", "[ 4 ]", 'input "x" is f32[?,3] in the file, the configuration says FP32[?, 4]'),
        ("output", '"y"', '"z"', 'no output "z"; the file has y; correct config.pbtxt'),
        ("type", "TYPE_FP32", "TYPE_FP16", 'input "x" is f32[?,3] in the file, the configuration says FP16[?, 3]'),
    ):
        edit(add_plus_one(models, name).parent, old, new)
        said[name, 1] = says
    publish(models, identity("huge", (DataType.FP32, (2**31 - 1, 2**31 - 1))))
    said["huge", 1] = "more than 1073741824 bytes; correct config.pbtxt"
    for name, old, new, says in (
        ("field", "max_batch_size", "colour: 1\nmax_batch_size", "config.pbtxt:3: unknown field `colour`"),
        ("backend", '"openvino"', '"tensorrt"', 'config.pbtxt:2: `backend` is "tensorrt"; expected one of'),
        ("renamed", 'name: "renamed"', 'name: "other"', 'but the folder is "renamed"'),
    ):
        edit(add_plus_one(models, name).parent, old, new)
        said[name, 0] = says
    return said


def edit(model: Path, old: str, new: str) -> None:
    """Replaces the first `old` in a model's configuration."""
    path = model / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_unknown_field_stops_a_node_that_was_asked_for_this_model(fail_to_start: Failing, models: Path) -> None:
    edit(models / "echo", "max_batch_size", "colour: 1\nmax_batch_size")
    assert "config.pbtxt:3: unknown field `colour`; known here:" in fail_to_start(models, "--model", "echo")


def test_only_the_named_models_are_loaded(start_node: StartNode, models: Path) -> None:
    folder = add_plus_one(models)
    truncate(folder, tell_manifest=False)
    node: RunningNode = start_node(models, "--model", "echo")
    assert node.models == ("echo:1",)
