"""`starling call`: inputs as people write them, tables, pictures and files out, errors explained."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from starling.predict.v1 import model_service_pb2 as pb
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse, Timing
from starling.tensor.v1.tensor_pb2 import DataType, Tensor, TensorSpec

from services.client import InvalidInput, ModelInfo, ModelState, TensorInfo
from services.client.call import main
from services.client.specs import build_inputs, read_specs
from services.client.values import Array

from .conftest import FakeNode, Serve, abort
from .test_client import Models, WireError, refuse

LABELS = [f"class-{index}" for index in range(10)]


class Signatures(Models):
    """A detector, a classifier and a policy."""

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:  # noqa: N802
        frame = TensorSpec(name="frame", data_type=DataType.DATA_TYPE_UINT8, dims=[-1, -1, 3])
        classes = TensorSpec(name="classes", data_type=DataType.DATA_TYPE_INT32, dims=[3], labels=LABELS)
        logits = TensorSpec(name="logits", data_type=DataType.DATA_TYPE_FP32, dims=[10], labels=LABELS)
        state = TensorSpec(name="state", data_type=DataType.DATA_TYPE_FP16, dims=[2])
        signatures = {
            "detector": ([frame], [classes]),
            "classifier": ([frame], [logits]),
            "policy": ([state, TensorSpec(name="goal", data_type=DataType.DATA_TYPE_INT8, dims=[2])], []),
        }
        if request.name not in signatures:
            abort(context, WireError("NOT_FOUND", "MODEL_NOT_FOUND"))
        inputs, outputs = signatures[request.name]
        model = pb.Model(name=request.name, version=1, state=pb.MODEL_STATE_READY, inputs=inputs, outputs=outputs)
        return pb.GetModelResponse(model=model)


def build_tensor(name: str, kind: str, array: Array) -> Tensor:
    data_type = DataType.Value(f"DATA_TYPE_{kind}")
    return Tensor(name=name, data_type=data_type, shape=array.shape, data=array.tobytes())


def answer(request: PredictRequest) -> bytes:
    boxes = np.array([[[10, 60, 50, 110], [70, 20, 110, 90], [0, 0, 0, 0]]], np.float32)
    outputs = {
        "detector": [
            build_tensor("boxes", "FP32", boxes),
            build_tensor("scores", "FP32", np.array([[0.5, 0.875, 0.1]], np.float32)),
            build_tensor("classes", "INT32", np.array([[2, 7, 0]], np.int32)),
            build_tensor("count", "INT32", np.array([2], np.int32)),
        ],
        "classifier": [build_tensor("logits", "FP32", np.arange(10, dtype=np.float32).reshape(1, 10))],
        "policy": list(request.inputs),
    }[request.model_name]
    timing = Timing(
        queue_us=400,
        batch_wait_us=300,
        compute_us=16_000,
        total_us=17_000,
        predicted_us=16_800,
        slack_us=-2_000 if request.model_name == "policy" else 83_000,
        batch_size=2,
    )
    return PredictResponse(
        model_name=request.model_name, model_version=1, node="edge-0", outputs=outputs, timing=timing
    ).SerializeToString()


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def node(serve: Serve) -> FakeNode:
    node = serve(Signatures())
    node.answer = answer
    return node


@pytest.fixture
def call(node: FakeNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("COLUMNS", "120")

    def run(*argv: str) -> tuple[int, str, str]:
        status = main([*argv, "--target", node.target])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    frame = np.zeros((120, 160, 3), np.uint8)
    frame[..., 0] = 200  # blue
    cv2.imwrite(str(path), frame)
    return path


def test_a_picture_is_answered_with_a_table_and_a_picture(
    call: Call, node: FakeNode, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "result.png"
    status, text, errors = call("detector", "--input", f"frame=@{photo}", "--out", str(out))
    assert status == 0
    (sent,) = node.requests[0].inputs
    assert (list(sent.shape), sent.data[:3]) == ([1, 120, 160, 3], b"\xc8\x00\x00")
    assert "2 things at 35% or more" in text
    assert text.index("class-7") < text.index("class-2")
    assert "0.88" in text
    assert "detector:1 on edge-0" in text
    assert "queue 0.4 (0.3 for the batch) + compute 16.0 + other 0.6, batch of 2" in text
    assert "17.0 ms on the node, 16.8 predicted, 83.0 ms before the deadline" in text
    assert f"wrote {out}" in errors
    picture = cv2.imread(str(out))
    assert picture is not None
    assert picture.shape == (120, 160, 3)
    assert tuple(picture[80, 110]) != (200, 0, 0)


def test_json_is_one_object_with_everything(call: Call, photo: Path) -> None:
    status, text, _ = call("detector", "--input", f"@{photo}", "--json", "--min-score", "0.6")
    value = json.loads(text)
    assert status == 0
    assert value["detections"] == [{"row": 0, "label": "class-7", "score": 0.875, "box": [70.0, 20.0, 110.0, 90.0]}]
    assert value["outputs"]["count"] == {"dtype": "int32", "shape": [1], "data": [2]}
    assert (value["node"], value["compute_us"], value["batch_wait_us"]) == ("edge-0", 16_000, 300)
    assert (value["predicted_us"], value["slack_us"]) == (16_800, 83_000)


def test_a_classifier_shows_its_best_classes(call: Call, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.jpg"
    status, text, _ = call("classifier", "--input", f"frame=@{photo}", "--out", str(out))
    assert status == 0
    assert [label for label in LABELS if label in text] == LABELS[5:]
    assert out.stat().st_size > 0


def test_arrays_of_any_model_are_shown_and_saved(call: Call, node: FakeNode, tmp_path: Path) -> None:
    goal = tmp_path / "goal.npy"
    np.save(goal, np.array([[1, -2]], np.int8))
    out = tmp_path / "out.npz"
    status, text, _ = call("policy", "--input", "state=[[0.5, 1]]", "--input", f"goal=@{goal}", "--out", str(out))
    assert status == 0
    assert node.requests[0].inputs[0].data_type == DataType.DATA_TYPE_FP16
    assert "float16" in text
    assert "2.0 ms after the deadline" in text
    assert "[ 1 -2]" in text
    with np.load(out) as saved:
        assert saved["state"].tolist() == [[0.5, 1.0]]
        assert saved["goal"].dtype == np.int8


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["detector", "--input", "frame=@no-such.jpg"], "input 'frame': there is no file no-such.jpg"),
        (["detector", "--input", "frame=@{tmp}/text.png"], "is no picture that OpenCV can read"),
        (["detector", "--input", "frame=@{tmp}/text.txt"], "is neither a picture nor .npy"),
        (["detector", "--input", "frame=@{tmp}/text.npy"], "is no array"),
        (["detector", "--input", "frame=zeros:1x3"], "is not zeros:SHAPE:TYPE such as zeros:1x3x4:fp32"),
        (["detector", "--input", "frame=zeros:1x3:float"], "types are bool, uint8"),
        (["detector", "--input", "frame=zeros:99999999x99999999x9999:fp64"], "makes no array"),
        (["detector", "--input", "frame=photo.jpg"], "is none of @photo.jpg, @array.npy"),
        (["detector", "--input", "frame=[[256]]"], "is no UINT8 array"),
        (["detector", "--input", "frame=[[1], [1, 2]]"], "is no UINT8 array"),
        (["detector", "--input", "frame=[1]", "--input", "frame=[2]"], "is given twice"),
        (["policy", "--input", "[1]"], "has no name; write NAME=[1]; the model's inputs are: state, goal"),
        (["policy", "--input", "state=[1]", "--out", "x.gif"], "expected .png, .jpg or .npz"),
        (["policy", "--input", "state=[1]", "--out", "/no/such/x.png"], "there is no folder /no/such"),
        (["policy", "--input", "state=[1]", "--out", "{tmp}/x.png"], "none of the inputs is one; use .npz"),
        (["policy", "--input", "state=[1]", "--deadline-ms", "0"], "deadline_s is 0.0"),
    ],
)
def test_a_wrong_command_line_is_explained(call: Call, tmp_path: Path, argv: list[str], says: str) -> None:
    for name in ("text.png", "text.txt", "text.npy"):
        (tmp_path / name).write_text("text")
    status, _, errors = call(*(word.replace("{tmp}", str(tmp_path)) for word in argv))
    assert status == 2
    assert errors.startswith("starling call: ")
    assert says in errors


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--input", "frame=@no-such.jpg"], "input 'frame': there is no file no-such.jpg"),
        (["--input", "@no-such.jpg"], "starling call: there is no file no-such.jpg"),
        (["--input", "x=[1"], "input 'x': '[1' is none of"),
        (["--input", "x=[1]", "--deadline-ms", "-5"], "deadline_s is -0.005"),
        (["--input", "x=[1]", "--target", "localhost"], "target 'localhost' has no port"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said_without_asking_anybody(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["m", "--target", "127.0.0.1:1", *flags]) == 2
    assert says in capsys.readouterr().err


def test_a_step_of_a_sequence_says_so(call: Call, node: FakeNode) -> None:
    step = ("policy", "--input", "obs=zeros:1x22:fp32", "--input", "h=zeros:1x16:fp32", "--sequence-id", "drone-7")
    for flags in (("--sequence-start",), (), ("--sequence-end",)):
        assert call(*step, *flags)[0] == 0
    said = [(one.sequence_id, one.sequence_start, one.sequence_end) for one in node.requests]
    assert said == [("drone-7", True, False), ("drone-7", False, False), ("drone-7", False, True)]


def test_several_arrays_in_one_file_are_refused(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "several.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(1), b=np.zeros(1))
    status, _, errors = call("policy", "--input", f"state=@{path}")
    assert (status, "holds several arrays" in errors) == (2, True)


def test_a_refusal_names_its_reason_and_when_to_come_back(call: Call, node: FakeNode) -> None:
    node.answer = lambda _: refuse("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.25)
    status, text, errors = call("policy", "--input", "state=[1]")
    assert (status, text) == (1, "")
    assert errors == "starling call: about QUEUE_FULL [QUEUE_FULL]; try again in 0.25 s\n"


def test_when_to_come_back_is_said_once(call: Call, node: FakeNode) -> None:
    def refuse_all(_: PredictRequest) -> bytes:
        error = WireError("UNAVAILABLE", "NO_NODE", 0.5)
        error.args = ("no node is well at the moment; try again",)
        raise error

    node.answer = refuse_all
    assert call("policy", "--input", "state=[1]") == (
        1,
        "",
        "starling call: no node is well at the moment [NO_NODE]; try again in 0.5 s\n",
    )


def test_a_deadline_that_can_not_be_met_is_explained(call: Call, node: FakeNode) -> None:
    node.answer = lambda _: refuse("RESOURCE_EXHAUSTED", "DEADLINE_UNMEETABLE", 0.02, predicted_us=70_000)
    status, _, errors = call("policy", "--input", "state=[1]")
    assert (status, errors) == (
        1,
        "starling call: about DEADLINE_UNMEETABLE [DEADLINE_UNMEETABLE]; try again in 0.02 s\n",
    )


def test_an_unknown_model_and_a_lost_gateway_end_with_1(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("resnet", "--input", "x=[1]")[0] == 1
    assert main(["m", "--input", "x=[1]", "--target", "127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "cannot reach 127.0.0.1:1: ipv4:127.0.0.1:1: Failed to connect" in said
    assert "Connection refused; check the address and that it is up; `starling up` starts a mesh" in said


def test_a_server_of_something_else_is_told_from_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert main(["m", "--input", "x=[1]", "--target", f"127.0.0.1:{port}"]) == 1
    finally:
        server.stop(None).wait(10)
    assert f"127.0.0.1:{port} answers gRPC and does not know this call" in capsys.readouterr().err


def test_a_peer_without_a_model_service_still_answers(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    target = serve().target
    assert main(["m", "--input", "x=[[1, 2]]", "--target", target]) == 0
    assert "predicted" not in capsys.readouterr().out  # a node that does not tell
    assert main(["m", "--input", "x=[[1, 2]]", "--target", target, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["outputs"]["x"] == {"dtype": "float32", "shape": [1, 2], "data": [[1.0, 2.0]]}


def test_help_shows_two_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "starling call nanodet --input frame=@photo.jpg --out result.png" in text
    assert "(default: 127.0.0.1:50051)" in text


def test_names_may_hold_what_models_use() -> None:
    model = ModelInfo(
        name="m",
        version=1,
        state=ModelState.READY,
        status_message="",
        engine="",
        inputs=(TensorInfo(name="input.1:0", data_type="FP32", dims=()),),
        outputs=(),
        max_batch_size=1,
        batch_buckets=(),
        timings=(),
        license="",
        engine_properties={},
    )
    assert list(build_inputs(read_specs(["input.1:0=[1]"]), model)) == ["input.1:0"]
    assert list(build_inputs(read_specs(["zeros:1:fp32"]), model)) == ["input.1:0"]
    with pytest.raises(InvalidInput, match="the model's inputs are: not known"):
        build_inputs(read_specs(["[1]"]), None)
