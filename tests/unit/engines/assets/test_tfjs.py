"""Tests of the TensorFlow.js converter: every operation against NumPy, on tiny graphs."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto

from engines import CorruptModel
from engines.assets.graph import GraphBuilder
from engines.assets.tfjs import append_tfjs, read_tfjs
from engines.runners import onnxruntime_runner

F32 = npt.NDArray[np.float32]
RNG = np.random.default_rng(3)
IMAGE = RNG.standard_normal((1, 6, 8, 3)).astype(np.float32)


class Graph:
    """Writes graph models as the TensorFlow.js converter does."""

    def __init__(self, shape: Sequence[int]) -> None:
        dims = [{"size": str(size)} for size in shape]
        self.nodes: list[dict[str, Any]] = [
            {"name": "image", "op": "Placeholder", "attr": {"shape": {"shape": {"dim": dims}}}}
        ]
        self.entries: list[dict[str, Any]] = []
        self.weights = b""

    def const(self, value: npt.ArrayLike, dtype: str = "float32", packed: dict[str, Any] | None = None) -> str:
        array = np.asarray(value, (packed or {}).get("dtype", dtype))
        entry = {"name": f"k{len(self.entries)}", "shape": list(array.shape), "dtype": dtype}
        self.entries.append(entry | ({"quantization": packed} if packed else {}))
        self.weights += array.tobytes()
        self.nodes.append({"name": entry["name"], "op": "Const"})
        return str(entry["name"])

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attributes})
        return name

    def run(self, output: str, image: F32) -> tuple[F32, list[str]]:
        document = {
            "modelTopology": {"node": self.nodes},
            "weightsManifest": [{"paths": ["w.bin"], "weights": self.entries}],
        }
        model = read_tfjs(json.dumps(document).encode(), self.weights)
        builder = GraphBuilder("test")
        source = builder.input("x", TensorProto.FLOAT, image.shape)
        (value,) = append_tfjs(builder, model, source, [output])
        name = builder.node("Identity", value.name)
        builder.output(name, "y", TensorProto.FLOAT, value.shape)
        built = builder.build()
        result: F32 = onnxruntime_runner(built)({"x": image})["y"]
        return result, [node.op_type for node in built.graph.node if node.op_type != "Identity"]


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def plane(value: int) -> dict[str, Any]:
    return {"list": {"i": ["1", str(value), str(value), "1"]}}


def conv_attributes(padding: str, stride: int, dilation: int = 1) -> dict[str, Any]:
    return {"padding": text(padding), "strides": plane(stride), "dilations": plane(dilation)}


def convolve(image: F32, weight: F32, stride: int, dilation: int, *, same: bool) -> F32:
    """The definition, one output element at a time; TensorFlow pads the odd element at the end."""
    reach = [(size - 1) * dilation + 1 for size in weight.shape[:2]]
    if same:
        pads = []
        for length, size in zip(image.shape[1:3], reach, strict=True):
            more = max(0, (math.ceil(length / stride) - 1) * stride + size - length)
            pads.append((more // 2, more - more // 2))
        image = np.pad(image, [(0, 0), *pads, (0, 0)])
    rows, columns = ((n - size) // stride + 1 for n, size in zip(image.shape[1:3], reach, strict=True))
    result = np.zeros((1, rows, columns, weight.shape[3]), np.float32)
    for row in range(rows):
        for column in range(columns):
            at = row * stride, column * stride
            patch = image[0, at[0] : at[0] + reach[0] : dilation, at[1] : at[1] + reach[1] : dilation]
            result[0, row, column] = np.einsum("hwc,hwco->o", patch, weight)
    return result


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("stride", "dilation", "side"), [(1, 1, 3), (2, 1, 3), (1, 2, 2), (2, 1, 1)])
def test_convolution(padding: str, stride: int, dilation: int, side: int) -> None:
    weight = RNG.standard_normal((side, side, 3, 4)).astype(np.float32)
    graph = Graph(IMAGE.shape)
    attributes = conv_attributes(padding, stride, dilation)
    found, _ = graph.run(graph.node("Conv2D", "image", graph.const(weight), **attributes), IMAGE)
    expected = convolve(IMAGE, weight, stride, dilation, same=padding == "SAME")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bias_becomes_part_of_a_convolution_that_nobody_else_reads() -> None:
    graph = Graph(IMAGE.shape)
    weight = RNG.standard_normal((1, 1, 3, 2)).astype(np.float32)
    bias = [1.0, -2.0]
    conv = graph.node("Conv2D", "image", graph.const(weight), **conv_attributes("VALID", 1))
    found, operations = graph.run(graph.node("Add", conv, graph.const(bias)), IMAGE)
    np.testing.assert_allclose(found, IMAGE @ weight[0, 0] + bias, atol=1e-5)
    assert "Add" not in operations


def test_bias_of_a_convolution_with_other_readers_stays_an_addition() -> None:
    graph = Graph(IMAGE.shape)
    weight = RNG.standard_normal((1, 1, 3, 2)).astype(np.float32)
    conv = graph.node("Conv2D", "image", graph.const(weight), **conv_attributes("VALID", 1))
    both = graph.node("AddV2", graph.node("BiasAdd", conv, graph.const([1.0, 2.0])), conv)
    found, _ = graph.run(both, IMAGE)
    np.testing.assert_allclose(found, 2 * (IMAGE @ weight[0, 0]) + [1.0, 2.0], atol=1e-5)


def test_pad_before_a_convolution_becomes_its_padding() -> None:
    graph = Graph(IMAGE.shape)
    weight = RNG.standard_normal((3, 3, 3, 2)).astype(np.float32)
    padded = graph.node("Pad", "image", graph.const([[0, 0], [1, 2], [0, 1], [0, 0]], "int32"))
    found, operations = graph.run(
        graph.node("Conv2D", padded, graph.const(weight), **conv_attributes("VALID", 1)), IMAGE
    )
    expected = convolve(np.pad(IMAGE, [(0, 0), (1, 2), (0, 1), (0, 0)]), weight, 1, 1, same=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "Pad" not in operations


@pytest.mark.parametrize(("filler", "absorbed"), [(-3.4e38, True), (5.0, False)])
def test_pad_before_pooling_is_absorbed_only_when_it_cannot_win(filler: float, *, absorbed: bool) -> None:
    graph = Graph(IMAGE.shape)
    amounts = graph.const([[0, 0], [1, 1], [1, 1], [0, 0]], "int32")
    padded = graph.node("PadV2", "image", amounts, graph.const(filler))
    found, operations = graph.run(
        graph.node("MaxPool", padded, ksize=plane(2), strides=plane(2), padding=text("VALID")), IMAGE
    )
    wide = np.pad(IMAGE, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=filler)
    expected = wide.reshape(1, 4, 2, 5, 2, 3).max((2, 4))
    np.testing.assert_array_equal(found, expected)
    assert ("Pad" not in operations) is absorbed


def test_pad_that_nothing_absorbs_is_emitted() -> None:
    graph = Graph(IMAGE.shape)
    padded = graph.node("Pad", "image", graph.const([[0, 0], [1, 0], [0, 2], [3, 0]], "int32"))
    found, _ = graph.run(graph.node("Relu", padded), IMAGE)
    np.testing.assert_array_equal(found, np.pad(np.maximum(IMAGE, 0), [(0, 0), (1, 0), (0, 2), (3, 0)]))


@pytest.mark.parametrize(
    ("op", "attributes", "expected"),
    [
        ("Relu", {}, np.maximum(IMAGE, 0)),
        ("Sigmoid", {}, 1 / (1 + np.exp(-IMAGE))),
        ("LeakyRelu", {"alpha": {"f": 0.1}}, np.where(IMAGE > 0, IMAGE, 0.1 * IMAGE)),
        ("Identity", {}, IMAGE),
    ],
)
def test_activations(op: str, attributes: dict[str, Any], expected: F32) -> None:
    graph = Graph(IMAGE.shape)
    found, _ = graph.run(graph.node(op, "image", **attributes), IMAGE)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_transposes_cost_nothing_where_layouts_agree() -> None:
    graph = Graph((1, 3, 6, 8))
    channel_last = graph.node("Transpose", "image", graph.const([0, 2, 3, 1], "int32"))
    weight = RNG.standard_normal((3, 3, 3, 2)).astype(np.float32)
    conv = graph.node("Conv2D", channel_last, graph.const(weight), **conv_attributes("SAME", 1))
    channel_first = graph.node("Transpose", conv, graph.const([0, 3, 1, 2], "int32"))
    image = np.ascontiguousarray(IMAGE.transpose(0, 3, 1, 2))
    found, operations = graph.run(channel_first, image)
    expected = convolve(IMAGE, weight, 1, 1, same=True).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert operations == ["Conv"]


@pytest.mark.parametrize("permutation", [(0, 3, 1, 2), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_any_transpose_followed_by_constants_and_sums(permutation: tuple[int, ...]) -> None:
    graph = Graph(IMAGE.shape)
    turned = graph.node("Transpose", "image", graph.const(permutation, "int32"))
    expected = IMAGE.transpose(permutation)
    row = RNG.standard_normal((expected.shape[-1],)).astype(np.float32)
    summed = graph.node("Add", graph.node("Add", turned, graph.const(row)), turned)
    found, _ = graph.run(summed, IMAGE)
    np.testing.assert_allclose(found, 2 * expected + row, atol=1e-5)


@pytest.mark.parametrize("axis", [3, -1, 1])
def test_concatenation_of_values_in_different_layouts(axis: int) -> None:
    graph = Graph(IMAGE.shape)
    weight = np.eye(3, dtype=np.float32)[None, None]
    conv = graph.node("Conv2D", "image", graph.const(weight), **conv_attributes("VALID", 1))
    joined = graph.node("ConcatV2", conv, "image", graph.const(axis, "int32"))
    found, _ = graph.run(joined, IMAGE)
    np.testing.assert_allclose(found, np.concatenate([IMAGE, IMAGE], axis), atol=1e-6)


def test_resize_doubles_and_halves_with_half_pixel_centres() -> None:
    attributes = {"half_pixel_centers": {"b": True}, "align_corners": {"b": False}}
    graph = Graph(IMAGE.shape)
    larger = graph.node("ResizeBilinear", "image", graph.const([12, 16], "int32"), **attributes)
    smaller = graph.node("ResizeBilinear", larger, graph.const([6, 8], "int32"), **attributes)
    found, _ = graph.run(smaller, IMAGE)
    up = IMAGE
    for axis in (1, 2):
        last = up.shape[axis] - 1
        before = up.take([0, *range(last)], axis)
        after = up.take([*range(1, last + 1), last], axis)
        shape = [*up.shape[:axis], 2 * up.shape[axis], *up.shape[axis + 1 :]]
        up = np.stack([0.75 * up + 0.25 * before, 0.75 * up + 0.25 * after], axis + 1).reshape(shape)
    expected = up.reshape(1, 6, 2, 8, 2, 3).mean((2, 4))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("attribute", ["half_pixel_centers", "align_corners"])
def test_other_kinds_of_resize_are_refused(attribute: str) -> None:
    attributes = {"half_pixel_centers": {"b": True}, "align_corners": {"b": False}}
    attributes[attribute]["b"] = not attributes[attribute]["b"]
    graph = Graph(IMAGE.shape)
    resized = graph.node("ResizeBilinear", "image", graph.const([12, 16], "int32"), **attributes)
    with pytest.raises(CorruptModel, match="only half-pixel centres"):
        graph.run(resized, IMAGE)


@pytest.mark.parametrize(
    ("packed", "stored"),
    [({"dtype": "float16"}, [0.5, -1.0, 2.0]), ({"dtype": "uint8", "scale": 0.5, "min": -1.0}, [3, 0, 6])],
)
def test_packed_weights_are_unpacked(packed: dict[str, Any], stored: list[float]) -> None:
    graph = Graph(IMAGE.shape)
    found, _ = graph.run(graph.node("Add", "image", graph.const(stored, "float32", packed)), IMAGE)
    np.testing.assert_allclose(found - IMAGE, np.broadcast_to([0.5, -1.0, 2.0], IMAGE.shape), atol=1e-6)


def test_unknown_operations_are_named_with_what_is_known() -> None:
    graph = Graph(IMAGE.shape)
    with pytest.raises(CorruptModel, match=r"operation Erf .* has no conversion; known: Add,"):
        graph.run(graph.node("Erf", "image"), IMAGE)


def test_missing_nodes_and_computed_constants_are_refused() -> None:
    graph = Graph(IMAGE.shape)
    with pytest.raises(CorruptModel, match="no value `nowhere`"):
        graph.run(graph.node("Relu", "nowhere"), IMAGE)
    with pytest.raises(CorruptModel, match="input 1 is computed; expected a constant"):
        graph.run(graph.node("Transpose", "image", graph.node("Relu", "image")), IMAGE)


@pytest.mark.parametrize("topology", [b"", b"{", b"[]", b'{"modelTopology": {}}', b'{"modelTopology": {"node": [{}]}}'])
def test_broken_documents_are_refused(topology: bytes) -> None:
    with pytest.raises(CorruptModel, match="download it again"):
        read_tfjs(topology, b"")


def test_truncated_weights_are_refused() -> None:
    graph = Graph(IMAGE.shape)
    graph.const(np.zeros((3, 3)))
    document = {
        "modelTopology": {"node": graph.nodes},
        "weightsManifest": [{"paths": ["w.bin"], "weights": graph.entries}],
    }
    with pytest.raises(CorruptModel, match="download it again"):
        read_tfjs(json.dumps(document).encode(), graph.weights[:-1])
