"""A small model repository: engines that answer at once, late or never, and two graphs of a few nodes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper
from openvino import opset15 as ops

from engines import DataType, ModelConfig, Postprocess, Release, Repository, StateConfig, TensorConfig

_OPSET = helper.make_opsetid("", 17)
_IR_VERSION = 9  # what OpenVINO and ONNX Runtime of the last years read
# The detector's anchors, xyxy in pixels: the first two overlap by half, the third is far away.
ANCHORS = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [40, 40, 50, 50]], np.float32)
TYPES = tuple(kind for kind in DataType if kind not in (DataType.BF16, DataType.BYTES))  # numbers that NumPy has


def identity(
    name: str,
    *tensors: tuple[DataType, tuple[int, ...]],
    rows: int = 1,
    preferred: tuple[int, ...] = (),
    delay_us: int = 0,
    fail_every: int = 0,
    queue_max: int = 64,
    versions: int = 1,
    default_timeout_us: int = 0,
) -> ModelConfig:
    """Returns a model that answers output `y0` with input `x0`, and so on."""
    return ModelConfig(
        name=name,
        backend="identity",
        max_batch_size=rows,
        inputs=tuple(TensorConfig(f"x{i}", kind, dims) for i, (kind, dims) in enumerate(tensors)),
        outputs=tuple(TensorConfig(f"y{i}", kind, dims) for i, (kind, dims) in enumerate(tensors)),
        preferred_batch_sizes=preferred,
        queue_max=queue_max,
        default_timeout_us=default_timeout_us,
        version_count=versions,
        identity_delay_us=delay_us,
        identity_fail_every=fail_every,
    )


def plus_one(name: str = "plus-one") -> ModelConfig:
    """Returns the configuration of `build_plus_one`."""
    return ModelConfig(
        name=name,
        backend="openvino",
        max_batch_size=4,
        inputs=(TensorConfig("x", DataType.FP32, (3,)),),
        outputs=(TensorConfig("y", DataType.FP32, (3,)),),
        preferred_batch_sizes=(2,),
    )


def build_plus_one() -> bytes:
    """Returns ONNX for y = x + 1 with x FP32 [batch, 3]."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "plus_one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    return _serialize(graph)


def accumulator(name: str, *, idle_us: int = 60_000_000, sequences_max: int = 64) -> ModelConfig:
    """Returns the configuration of `build_accumulator`: its state h is kept for each sequence."""
    return ModelConfig(
        name=name,
        backend="openvino",
        max_batch_size=4,
        inputs=(TensorConfig("x0", DataType.FP32, (1,)),),
        outputs=(TensorConfig("y0", DataType.FP32, (1,)),),
        preferred_batch_sizes=(2,),
        queue_max=sequences_max,
        states=(StateConfig("h", "h_out", DataType.FP32, (1,)),),
        sequence_idle_us=idle_us,
        sequences_max=sequences_max,
    )


def build_accumulator() -> bytes:
    """Returns ONNX for y0 = h + x0 and h_out = 2 h + x0 + 1."""
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1])
        for name in ("x0", "h", "y0", "h_out")
    }
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["h", "x0"], ["y0"]),
            helper.make_node("Add", ["h", "y0"], ["twice"]),
            helper.make_node("Add", ["twice", "one"], ["h_out"]),
        ],
        "accumulator",
        [tensors["x0"], tensors["h"]],
        [tensors["y0"], tensors["h_out"]],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    return _serialize(graph)


def lengths(name: str = "lengths") -> ModelConfig:
    """Returns the configuration of `build_lengths`."""
    return ModelConfig(
        name=name,
        backend="openvino",
        max_batch_size=4,
        inputs=(TensorConfig("text", DataType.BYTES, (-1,)),),
        outputs=(TensorConfig("length", DataType.INT32, (-1,)), TensorConfig("same", DataType.BYTES, (-1,))),
        preferred_batch_sizes=(2,),
        model_filename="model.xml",
    )


def build_lengths() -> dict[str, bytes]:
    """Returns the files of an OpenVINO model whose texts come back with their lengths."""
    text = ops.parameter([-1, -1], openvino.Type.string, name="text")
    text.output(0).set_names({"text"})
    parts = ops.string_tensor_unpack(text)
    length = ops.subtract(parts.output(1), parts.output(0))
    same = ops.string_tensor_pack(*parts.outputs())
    length.output(0).set_names({"length"})
    same.output(0).set_names({"same"})
    graph = openvino.Model([ops.result(length), ops.result(same)], [text], "lengths")
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(graph, Path(folder) / "model.xml")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def detector(name: str = "colours") -> ModelConfig:
    """Returns the configuration of `build_detector` with the nms step behind it."""
    return ModelConfig(
        name=name,
        backend="openvino",
        max_batch_size=2,
        inputs=(TensorConfig("frame", DataType.UINT8, (-1, -1, 3)),),
        outputs=(
            TensorConfig("boxes", DataType.FP32, (100, 4)),
            TensorConfig("scores", DataType.FP32, (100,)),
            TensorConfig("classes", DataType.INT32, (100,), "labels.txt"),
            TensorConfig("count", DataType.INT32, ()),
        ),
        postprocess=Postprocess.NMS,
    )


def build_detector() -> bytes:
    """Returns ONNX that scores anchor i by the mean of colour channel i; one class."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
            helper.make_node("Div", ["means", "white"], ["levels"]),
            helper.make_node("Unsqueeze", ["levels", "last"], ["scores"]),
            helper.make_node("Mul", ["scores", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "anchors"], ["boxes"]),
        ],
        "colours",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", 3, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3, 1]),
        ],
        [
            numpy_helper.from_array(np.float32(255), "white"),
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(ANCHORS[None], "anchors"),
        ],
    )
    return _serialize(graph)


def publish(
    root: Path,
    config: ModelConfig,
    *,
    version: int = 1,
    onnx_file: bytes = b"",
    files: Mapping[str, bytes] = MappingProxyType({}),
    license: str = "",  # noqa: A002
) -> None:
    """Publishes one version; `identity` needs no file."""
    files = {"model.onnx": onnx_file} if onnx_file else dict(files)
    labels = ("person",) if config.postprocess is Postprocess.NMS else ()
    Repository(root).publish(Release(config, version, files, labels, license))


def _serialize(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=[_OPSET], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
