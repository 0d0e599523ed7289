"""The control side of the Open Inference Protocol over the wire."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import openvino as ov
import pytest
from starling.inference import open_inference_pb2 as pb
from starling.inference.model_config_pb2 import TYPE_FP32, ModelConfig
from starling.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

from engines import DataType
from services.client import Client
from tests.support.node import RunningNode, StartNode, running_node
from tests.support.node_calls import raw_method, read_refusal, refused
from tests.support.node_models import build_plus_one, identity, plus_one, publish
from tests.support.waiting import wait_until

FP32 = DataType.FP32
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
ECHO = {"x0": np.zeros((2, 4), np.float32)}


def populate(root: Path) -> Path:
    """Publishes models as we do, and one as a repository for Triton has it: a graph and no word about it."""
    for version in (1, 2):
        publish(root, identity("echo", (FP32, (4,)), rows=4, preferred=(2,)), version=version)
    publish(root, identity("whole", (FP32, (2, -1)), rows=0))
    publish(root, identity("broken", (FP32, (4,)), fail_every=1))
    publish(root, plus_one(), onnx_file=build_plus_one())
    kinds = ("animal", "colour")
    labelled = identity("labelled", (FP32, (3,)), (FP32, (2,)), rows=2)
    outputs = tuple(
        replace(one, label_filename=f"{kind}s.txt") for one, kind in zip(labelled.outputs, kinds, strict=True)
    )
    publish(root, replace(labelled, outputs=outputs))
    (root / "labelled" / "animals.txt").write_text("cat\ndog\n")
    (root / "labelled" / "colours.txt").write_text("rot\ngrün\n")
    (root / "bare" / "1").mkdir(parents=True)
    (root / "bare" / "1" / "model.onnx").write_bytes(build_plus_one())
    return root


def test_a_repository_for_triton_is_served_as_it_is(start_node: StartNode, tmp_path: Path) -> None:
    root = tmp_path / "triton"
    for model in ("onnx", "ir", "bare"):
        (root / model / "1").mkdir(parents=True)
        (root / model / "1" / "model.onnx").write_bytes(build_plus_one())
    graph = ov.Core().read_model(root / "ir" / "1" / "model.onnx")
    (root / "ir" / "1" / "model.onnx").unlink()
    ov.save_model(graph, root / "ir" / "1" / "model.xml", compress_to_fp16=False)
    (root / "onnx" / "config.pbtxt").write_text(
        'name: "onnx" platform: "onnxruntime_onnx" max_batch_size: 8\n'
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]\n'
        'output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]\n'
        "instance_group [ { kind: KIND_CPU } ] dynamic_batching { max_queue_delay_microseconds: 100 }\n"
    )
    (root / "ir" / "config.pbtxt").write_text('backend: "openvino" max_batch_size: 0\n')
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    node = start_node(root)
    assert sorted(node.models) == ["bare:1", "ir:1", "onnx:1"]
    assert "model ir:1 has no manifest: its files are served unchecked" in node.log
    with node.connect() as channel:
        stub = GRPCInferenceServiceStub(channel)
        for model in ("onnx", "ir", "bare"):
            request = pb.ModelInferRequest(model_name=model)
            request.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
            answer = stub.ModelInfer(request, timeout=20)
            assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2, 3, 4]
        (ir,) = stub.ModelMetadata(pb.ModelMetadataRequest(name="ir"), timeout=20).outputs
        assert (ir.name, list(ir.shape)) == ("y", [-1, 3])
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_node_may_insist_on_manifests(start_node: StartNode, tmp_path: Path) -> None:
    root = populate(tmp_path / "models")
    node = start_node(root, "--require-manifests")
    assert "bare:1" not in node.models
    assert "plus-one:1" in node.models
    assert "a version is only loaded with its manifest" in node.log


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return populate(tmp_path_factory.mktemp("open-inference") / "models")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("node"), repository) as node:
        yield node


@pytest.fixture(scope="module")
def stub(node: RunningNode) -> Iterator[GRPCInferenceServiceStub]:
    with node.connect() as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return populate(tmp_path / "models")


@pytest.fixture
def own(start_node: StartNode, models: Path) -> RunningNode:
    """A node over a repository that the test may change."""
    return start_node(models, "--model", "echo")


@pytest.fixture
def own_stub(own: RunningNode) -> Iterator[GRPCInferenceServiceStub]:
    with own.connect() as channel:
        yield GRPCInferenceServiceStub(channel)


def refusal(call: Callable[..., Any], request: Any) -> tuple[str, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20)
    found = read_refusal(caught.value)
    return found.code.name, found.reason, found.text


def test_the_server_is_alive_ready_and_says_what_it_can(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    server = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    assert server.name == "starling"
    assert server.version
    # Each of them has its tests here or in test_infer*.py; tracing and CUDA memory are refused.
    assert sorted(server.extensions) == [
        "binary_tensor_data",
        "classification",
        "logging",
        "model_configuration",
        "model_repository",
        "model_repository(unload_dependents)",
        "parameters",
        "schedule_policy",
        "sequence",
        "statistics",
        "system_shared_memory",
    ]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("echo", "", True), ("echo", "2", True), ("echo", "1", False), ("nobody", "", False), ("bare", "", True)],
)
def test_a_model_is_ready_when_it_answers(stub: GRPCInferenceServiceStub, name: str, version: str, ready: bool) -> None:
    assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=20).ready is ready


def shapes(tensors: Any) -> list[tuple[str, str, list[int]]]:
    return [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors]


def test_metadata_has_the_batch_and_the_configuration_has_not(stub: GRPCInferenceServiceStub) -> None:
    for name, largest, shape in (("plus-one", 4, [-1, 3]), ("bare", 4, [-1, 3]), ("whole", 0, [2, -1])):
        metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=name), timeout=20)
        config = stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=20).config
        assert (metadata.name, list(metadata.versions)) == (name, ["1"])
        assert [tensor[1:] for tensor in shapes(metadata.inputs)] == [("FP32", shape)]
        assert [tensor[1:] for tensor in shapes(metadata.outputs)] == [("FP32", shape)]
        assert (config.name, config.max_batch_size) == (name, largest)
        assert [tensor.name for tensor in config.input] == [tensor.name for tensor in metadata.inputs]
        assert [tensor.name for tensor in config.output] == [tensor.name for tensor in metadata.outputs]
        assert list(config.input[0].dims) == (shape[1:] if largest else shape)
        assert config.input[0].data_type == TYPE_FP32
        assert config.HasField("dynamic_batching") is (largest > 1)
        assert not config.HasField("sequence_batching")
        assert config.HasField("model_transaction_policy")
        assert not config.model_transaction_policy.decoupled
    assert stub.ModelMetadata(pb.ModelMetadataRequest(name="bare"), timeout=20).platform == "openvino_cpu"
    echo = stub.ModelConfig(pb.ModelConfigRequest(name="echo", version="2"), timeout=20).config
    assert isinstance(echo, ModelConfig)
    assert list(echo.dynamic_batching.preferred_batch_size) == [2]
    assert echo.version_policy.latest.num_versions == 1
    assert echo.parameters["starling.threads"].string_value == "1"


def test_each_output_is_classified_by_its_own_file(node: RunningNode, stub: GRPCInferenceServiceStub) -> None:
    request = pb.ModelInferRequest(model_name="labelled")
    for name, values in (("x0", [0.5, 3, 7]), ("x1", [1, 2])):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[1, len(values)])
        tensor.contents.fp32_contents.extend(values)
    for name in ("y0", "y1"):
        request.outputs.add(name=name).parameters["classification"].int64_param = 2
    animals, colours = stub.ModelInfer(request, timeout=10).raw_output_contents
    # The third animal has no name.
    assert animals == b"\x0a\0\0\x007.000000:2" + b"\x0e\0\0\x003.000000:1:dog"
    assert colours == b"\x10\0\0\x002.000000:1:" + "grün".encode() + b"\x0e\0\0\x001.000000:0:rot"
    with Client(node.target) as client:
        labels = client.model("labelled").labels_by_output
    assert labels == {"y0": ("cat", "dog"), "y1": ("rot", "grün")}


def test_statistics_only_grow(own: RunningNode, own_stub: GRPCInferenceServiceStub) -> None:
    own_stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="broken"), timeout=20)
    with Client(own.target) as client:
        for _ in range(3):
            client.predict("echo", ECHO)
        with pytest.raises(Exception, match="told to fail"):
            client.predict("broken", {"x0": np.zeros((1, 4), np.float32)})
    (echo,) = own_stub.ModelStatistics(pb.ModelStatisticsRequest(name="echo"), timeout=20).model_stats
    assert (echo.name, echo.version, echo.inference_count, echo.execution_count) == ("echo", "2", 6, 3)
    assert echo.last_inference > 1_600_000_000_000
    stats = echo.inference_stats
    assert (stats.success.count, stats.fail.count, stats.queue.count, stats.compute_infer.count) == (3, 0, 3, 3)
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert stats.success.ns == sum(part.ns for part in parts)
    assert [(one.batch_size, one.compute_infer.count) for one in echo.batch_stats] == [(2, 3)]
    everything = own_stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=20).model_stats
    assert [(one.name, one.inference_stats.fail.count) for one in everything] == [("broken", 1), ("echo", 0)]


def index(stub: GRPCInferenceServiceStub, *, ready: bool = False) -> list[tuple[str, str, str]]:
    found = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=20).models
    return [(one.name, one.version, one.state) for one in found]


def test_the_index_lists_what_is_loaded_and_what_could_be(own_stub: GRPCInferenceServiceStub, models: Path) -> None:
    (models / "plus-one" / "config.pbtxt").write_text("name: 3")
    assert index(own_stub) == [
        ("bare", "1", "UNAVAILABLE"),
        ("broken", "1", "UNAVAILABLE"),
        ("echo", "1", "UNAVAILABLE"),
        ("echo", "2", "READY"),
        ("labelled", "1", "UNAVAILABLE"),
        ("plus-one", "", "UNAVAILABLE"),
        ("whole", "1", "UNAVAILABLE"),
    ]
    assert index(own_stub, ready=True) == [("echo", "2", "READY")]
    reasons = {one.name: one.reason for one in own_stub.RepositoryIndex(pb.RepositoryIndexRequest()).models}
    assert reasons["bare"] == "not loaded"
    assert "a string in quotes" in reasons["plus-one"]


def test_loading_follows_the_version_policy_and_unloading_takes_all(
    own: RunningNode, own_stub: GRPCInferenceServiceStub, models: Path
) -> None:
    config = models / "echo" / "config.pbtxt"
    load = pb.RepositoryModelLoadRequest(model_name="echo")
    config.write_text(config.read_text().replace("latest { num_versions: 1 }", "all { }"))
    own_stub.RepositoryModelLoad(load, timeout=20)
    assert index(own_stub, ready=True) == [("echo", "1", "READY"), ("echo", "2", "READY")]
    assert list(own_stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"), timeout=20).versions) == ["1", "2"]
    config.write_text(config.read_text().replace("all { }", "specific { versions: [ 1 ] }"))
    own_stub.RepositoryModelLoad(load, timeout=20)
    assert index(own_stub, ready=True) == [("echo", "1", "READY")]
    unload = pb.RepositoryModelUnloadRequest(model_name="echo")
    unload.parameters["unload_dependents"].bool_param = True
    own_stub.RepositoryModelUnload(unload, timeout=20)
    assert index(own_stub, ready=True) == []
    assert not own_stub.ModelReady(pb.ModelReadyRequest(name="echo"), timeout=20).ready
    assert refusal(own_stub.ModelMetadata, pb.ModelMetadataRequest(name="echo"))[:2] == (
        "FAILED_PRECONDITION",
        "MODEL_NOT_READY",
    )
    assert own.process.poll() is None


def test_a_changed_file_is_loaded_again_and_an_unchanged_one_is_not(
    own: RunningNode, own_stub: GRPCInferenceServiceStub, models: Path
) -> None:
    load = pb.RepositoryModelLoadRequest(model_name="bare")
    own_stub.RepositoryModelLoad(load, timeout=20)
    x = np.ones((1, 3), np.float32)
    with Client(own.target) as client:
        client.predict("bare", {"x": x})
        own_stub.RepositoryModelLoad(load, timeout=20)
        assert own.count("starling_requests_total", model="bare", reason="OK") == 1
        graph = models / "bare" / "1" / "model.onnx"
        shutil.copy(graph, models / "copy.onnx")
        graph.write_bytes((models / "copy.onnx").read_bytes().replace(b"plus_one", b"plus_1st"))
        own_stub.RepositoryModelLoad(load, timeout=20)
        assert own.count("starling_requests_total", model="bare", reason="OK") == 0
        assert client.predict("bare", {"x": x}).outputs["y"].tolist() == [[2, 2, 2]]


def test_log_settings_change_what_is_logged(own: RunningNode, own_stub: GRPCInferenceServiceStub) -> None:
    def change(**settings: bool | int | str) -> dict[str, bool | int | str]:
        request = pb.LogSettingsRequest()
        for name, value in settings.items():
            kind = {bool: "bool_param", int: "uint32_param", str: "string_param"}[type(value)]
            setattr(request.settings[name], kind, value)
        answer = own_stub.LogSettings(request, timeout=20).settings
        return {name: getattr(one, str(one.WhichOneof("parameter_choice"))) for name, one in answer.items()}

    before = change()
    assert (before["log_info"], before["log_verbose_level"], before["log_file"]) == (True, 0, "")
    own_stub.ServerLive(pb.ServerLiveRequest(), timeout=20)
    assert "ServerLive" not in own.log
    assert change(log_verbose_level=1)["log_verbose_level"] == 1
    own_stub.ServerLive(pb.ServerLiveRequest(), timeout=20)
    assert wait_until(lambda: "ServerLive answered in" in own.log)
    assert change(log_verbose_level=0, log_info=False)["log_info"] is False
    own_stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="whole"), timeout=20)
    assert "whole:1 is ready" not in own.log


def with_parameter(request: Any, name: str) -> Any:
    request.parameters[name].string_param = "{}"
    return request


def settings(request: Any, name: str, **value: Any) -> Any:
    for key, one in value.items():
        if key == "value":
            request.settings[name].value.append(one)
        else:
            setattr(request.settings[name], key, one)
    return request


UNNAMED = "no model is named; give the name of a model, RepositoryIndex lists them"
UNKNOWN = "there is no model 'nobody'; pull or publish it first"
NO_VERSION = "versions are 1, 2, ... in digits, empty for the highest"
INVALID, ABSENT, NOT_READY, NEVER = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"
REFUSALS = [
    ("ModelReady", pb.ModelReadyRequest(), INVALID, UNNAMED),
    ("ModelReady", pb.ModelReadyRequest(name="echo", version="-1"), INVALID,
     f'version "-1" is not a number; {NO_VERSION}'),
    ("ModelMetadata", pb.ModelMetadataRequest(name="nobody"), ABSENT, UNKNOWN),
    ("ModelMetadata", pb.ModelMetadataRequest(name="echo", version="9"), ABSENT,
     "there is no version 9 of model 'echo'; found [2, 1]; publish it, or ask for one that there is"),
    ("ModelMetadata", pb.ModelMetadataRequest(name="echo", version="1"), NOT_READY,
     "model echo:1 is in the repository but not loaded; load it first"),
    ("ModelMetadata", pb.ModelMetadataRequest(name="../echo"), INVALID,
     "'../echo' is not a model name; expected the name of a folder of the repository"),
    ("ModelConfig", pb.ModelConfigRequest(name="nobody"), ABSENT, UNKNOWN),
    ("ModelConfig", pb.ModelConfigRequest(name="echo", version="two"), INVALID,
     f'version "two" is not a number; {NO_VERSION}'),
    ("ModelStatistics", pb.ModelStatisticsRequest(name="nobody"), ABSENT, UNKNOWN),
    ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="r"), NEVER,
     'repository "r" cannot be named: a node has one repository; leave the name empty'),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(), INVALID, UNNAMED),
    ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="nobody"), ABSENT, UNKNOWN),
    ("RepositoryModelLoad", with_parameter(pb.RepositoryModelLoadRequest(model_name="echo"), "config"), NEVER,
     'parameter "config" of RepositoryModelLoad would replace what the repository says; change config.pbtxt or the '
     "model's files and load again without it"),
    ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nobody"), ABSENT,
     "model nobody is not loaded; ModelService.ListModels shows what is"),
    ("RepositoryModelUnload", with_parameter(pb.RepositoryModelUnloadRequest(model_name="echo"), "now"), INVALID,
     'parameter "now" of RepositoryModelUnload is unknown; known: unload_dependents; leave it out'),
    ("TraceSetting", settings(pb.TraceSettingRequest(), "trace_level", value="TIMESTAMPS"), NEVER,
     'trace setting "trace_level" cannot be set: this node does not trace requests. Answers say where their time went, '
     "and the metrics have histograms of it"),
    ("LogSettings", settings(pb.LogSettingsRequest(), "log_fish", bool_param=True), INVALID,
     'log setting "log_fish" is unknown; known: log_info, log_warning, log_error, log_verbose_level, log_format, '
     "log_file; correct its name"),
    ("LogSettings", settings(pb.LogSettingsRequest(), "log_info", uint32_param=1), INVALID,
     'log setting "log_info" is 1; expected a value of type bool'),
    ("LogSettings", settings(pb.LogSettingsRequest(), "log_verbose_level", uint32_param=9), INVALID,
     'log setting "log_verbose_level" is 9; expected 0 to 4'),
    ("LogSettings", settings(pb.LogSettingsRequest(), "log_file", string_param="/tmp/x"), INVALID,
     "log setting \"log_file\" cannot be '/tmp/x': messages go to standard error in one format; redirect it where the "
     "node is started"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "request_", "code", "text"), REFUSALS, ids=lambda one: str(one)[:24])
def test_what_cannot_be_is_refused_with_the_reason(
    stub: GRPCInferenceServiceStub, method: str, request_: Any, code: str, text: str
) -> None:
    found = refusal(getattr(stub, method), request_)
    assert (found[0], found[2]) == (code, text)


@pytest.mark.parametrize("method", [one.name for one in SERVICE.methods if not one.client_streaming])
def test_every_method_refuses_what_is_no_message(node: RunningNode, method: str) -> None:
    names = [field for field in SERVICE.methods_by_name[method].input_type.fields if field.type == field.TYPE_STRING]
    bad_text = [bytes([field.number << 3 | 2, 1, 0xFF]) for field in names]
    with node.connect() as channel:
        for message in (b"\xff", b"\x0a\x7f", b"\x0b", *bad_text):
            found = refused(partial(raw_method(channel, f"/{SERVICE.full_name}/{method}"), message, timeout=20))
            assert (found.code.name, found.reason) == (INVALID, "INVALID_INPUT")
            what = SERVICE.methods_by_name[method].input_type
            assert found.text.startswith((f"malformed {what.full_name}: ", f"malformed {what.name}: "))


def test_tracing_is_off_and_says_so(stub: GRPCInferenceServiceStub) -> None:
    request = settings(pb.TraceSettingRequest(model_name="echo"), "trace_level", value="OFF")
    assert dict(stub.TraceSetting(request, timeout=20).settings)["trace_level"].value == ["OFF"]
