"""Converts TensorFlow.js graph models to ONNX, without TensorFlow.

TensorFlow computes on [batch, height, width, channel], ONNX on [batch, channel, height, width]. Instead of wrapping
every convolution into two transposes and removing them later, each value remembers how its axes are permuted and
padded; a `Transpose` or `Pad` is only emitted where some operation really needs it.
"""

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.assets.graph import GraphBuilder
from engines.errors import CorruptModel

Array = npt.NDArray[Any]

_DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "int32": np.int32,
    "uint8": np.uint8,
}
# Position of TensorFlow's N, H, W, C among ONNX's N, C, H, W.
_CHANNEL_FIRST = (0, 2, 3, 1)
# A pad value below this is "minus infinity": what a maximum never picks.
_LOWEST = float(np.finfo(np.float32).min) / 2


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of the TensorFlow graph; `inputs` name other nodes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TfjsModel:
    """A parsed graph model: nodes by name, and the constants."""

    nodes: dict[str, Node]
    constants: dict[str, Array]


@dataclass(frozen=True, slots=True)
class Value:
    """A TensorFlow value inside of the ONNX graph.

    Attributes:
        name: the ONNX value.
        shape: lengths in TensorFlow's order, at the size the model was exported for.
        order: TensorFlow's axis `i` is axis `order[i]` of the ONNX value.
        pads: elements still to be added before and after each of TensorFlow's axes.
        pad_value: what they are filled with.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] = ()
    pad_value: float = 0.0

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """Returns `shape` with the pads still to come."""
        pads = self.pads or ((0, 0),) * len(self.shape)
        return tuple(length + sum(pad) for length, pad in zip(self.shape, pads, strict=True))


def read_tfjs(topology: bytes, weights: bytes) -> TfjsModel:
    """Returns the parsed model.

    Args:
        topology: contents of `model.json`.
        weights: the weight shards named in it, one after the other.

    Raises:
        CorruptModel: not a graph model, or the weights are too short for it.
    """
    try:
        document = json.loads(topology)
        nodes = [
            Node(
                name=node["name"],
                op=node["op"],
                inputs=tuple(_plain(one) for one in node.get("input", []) if one[0] != "^"),
                attributes=node.get("attr", {}),
            )
            for node in document["modelTopology"]["node"]
        ]
        entries = [entry for group in document["weightsManifest"] for entry in group["weights"]]
        return TfjsModel({node.name: node for node in nodes}, _read_weights(entries, weights))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptModel(
            f"not a readable TensorFlow.js graph model ({type(error).__name__}: {error}); download it again"
        ) from error


def append_tfjs(builder: GraphBuilder, model: TfjsModel, image: str, outputs: Iterable[str]) -> list[Value]:
    """Appends the part of `model` that computes `outputs` and returns these values with the plain order of axes.

    Args:
        builder: receives the nodes.
        model: the parsed model; it has one placeholder.
        image: ONNX value that takes the placeholder's place.
        outputs: names of nodes of the model.

    Raises:
        CorruptModel: an operation that this converter has no handler for.
    """
    converter = _Converter(builder, model, image)
    values = []
    for name in outputs:
        value = converter.value(name)
        values.append(converter.settle(value, tuple(range(len(value.shape)))))
    return values


def _plain(reference: str) -> str:
    name, _, port = reference.partition(":")
    return name if port in ("", "0") else reference


def _read_weights(entries: list[dict[str, Any]], raw: bytes) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    at = 0
    for entry in entries:
        packed = entry.get("quantization", {})
        stored = np.dtype(_DTYPES[packed.get("dtype", entry["dtype"])])
        array: Array = np.frombuffer(raw, stored, math.prod(entry["shape"]), at)
        at += array.nbytes
        if packed and stored != np.float16:
            array = array * np.float32(packed["scale"]) + np.float32(packed.get("min", 0))
        constants[entry["name"]] = array.reshape(entry["shape"]).astype(_DTYPES[entry["dtype"]])
    return constants


class _Converter:
    def __init__(self, builder: GraphBuilder, model: TfjsModel, image: str) -> None:
        self.builder = builder
        self._model = model
        self._image = image
        self._done: dict[str, Value] = {}
        self._uses = Counter(name for node in model.nodes.values() for name in node.inputs)
        self._bare_convolutions: set[str] = set()

    def value(self, name: str) -> Value:
        """Returns the value of a node, converting what it depends on first, without recursion."""
        pending = [name]
        while pending:
            node = self._node(pending[-1])
            missing = [one for one in node.inputs if one not in self._model.constants and one not in self._done]
            if missing and node.name not in self._done:
                pending.extend(missing)
                continue
            if node.name not in self._done:
                self._done[node.name] = self._convert(node)
            pending.pop()
        return self._done[name]

    def constant(self, node: Node, at: int) -> Array:
        """Returns input `at`, which must be a constant."""
        name = node.inputs[at]
        while name not in self._model.constants and self._node(name).op in (
            "Identity",
            "Cast",
        ):
            name = self._node(name).inputs[0]
        if name not in self._model.constants:
            raise CorruptModel(f"{node.op} `{node.name}`: input {at} is computed; expected a constant")
        return self._model.constants[name]

    def settle(self, value: Value, order: tuple[int, ...]) -> Value:
        """Emits the pad and the transpose that `value` still owes, so that its axes lie in `order`."""
        name = value.name
        if any(pad != (0, 0) for pad in value.pads):
            pads = [pad for axis in np.argsort(value.order) for pad in [value.pads[axis]]]
            amounts = self.builder.integers(*(p[0] for p in pads), *(p[1] for p in pads))
            name = self.builder.node("Pad", name, amounts, self.builder.constant(value.pad_value))
        if value.order != order:
            permutation = [value.order[order.index(axis)] for axis in range(len(order))]
            name = self.builder.node("Transpose", name, perm=permutation)
        return Value(name, value.padded_shape, order)

    def mark_bare(self, value: Value) -> None:
        """Remembers that `value` comes from a convolution without bias."""
        self._bare_convolutions.add(value.name)

    def takes_bias(self, node: Node, value: Value) -> bool:
        """Returns whether an addition can become the bias of the convolution that made `value`."""
        return value.name in self._bare_convolutions and self._uses[node.inputs[0]] == 1

    def is_constant(self, name: str) -> bool:
        """Returns whether `name` is a stored constant."""
        return name in self._model.constants

    def _node(self, name: str) -> Node:
        try:
            return self._model.nodes[name]
        except KeyError as error:
            raise CorruptModel(
                f"the graph has no value `{name}`; expected a node of that name; download the model again"
            ) from error

    def _convert(self, node: Node) -> Value:
        if node.op == "Placeholder":
            dims = node.attributes["shape"]["shape"]["dim"]
            shape = tuple(int(dim["size"]) for dim in dims)
            return Value(self._image, shape, tuple(range(len(shape))))
        handler = _HANDLERS.get(node.op)
        if handler is None:
            raise CorruptModel(
                f"TensorFlow operation {node.op} (`{node.name}`) has no conversion;"
                f" known: {', '.join(sorted(_HANDLERS))}; add a handler to engines/assets/tfjs.py"
            )
        return handler(self, node)


def _padding(node: Node) -> str:
    return base64.b64decode(node.attributes["padding"]["s"]).decode()


def _plane(node: Node, name: str) -> list[int]:
    """Returns the height and width entries of a four-element list attribute."""
    return [int(one) for one in node.attributes[name]["list"]["i"]][1:3]


def _window(
    converter: _Converter,
    node: Node,
    kernel: list[int],
    dilations: list[int],
    filler: float,
) -> tuple[Value, list[int], tuple[int, ...]]:
    """Returns the input of a sliding window, its ONNX pads, and the height and width of the result.

    Pads that the input owes become pads of the window when they are what the window pads with anyway.
    """
    value = converter.value(node.inputs[0])
    strides = _plane(node, "strides")
    absorbed = [(0, 0), (0, 0)]
    owed = value.pads or ((0, 0),) * 4
    same_filler = value.pad_value == filler or max(value.pad_value, filler) < _LOWEST
    if owed[0] == owed[3] == (0, 0) and same_filler:
        absorbed = [owed[1], owed[2]]
        shape = value.padded_shape
        value = converter.settle(replace(value, pads=()), _CHANNEL_FIRST)
    else:
        value = converter.settle(value, _CHANNEL_FIRST)
        shape = value.shape
    result = []
    for at, (length, size) in enumerate(zip(shape[1:3], kernel, strict=True)):
        reach = (size - 1) * dilations[at] + 1
        if _padding(node) == "SAME":
            steps = -(-length // strides[at])
            more = max(0, (steps - 1) * strides[at] + reach - length)
            before, after = absorbed[at]
            absorbed[at] = (before + more // 2, after + more - more // 2)
            result.append(steps)
        else:
            result.append((length - reach) // strides[at] + 1)
    pads = [absorbed[0][0], absorbed[1][0], absorbed[0][1], absorbed[1][1]]
    return value, pads, (shape[0], *result)


def _conv(converter: _Converter, node: Node) -> Value:
    weights = converter.constant(node, 1)
    kernel = [int(weights.shape[0]), int(weights.shape[1])]
    dilations = _plane(node, "dilations")
    value, pads, shape = _window(converter, node, kernel, dilations, 0.0)
    name = converter.builder.node(
        "Conv",
        value.name,
        converter.builder.constant(weights.transpose(3, 2, 0, 1)),
        kernel_shape=kernel,
        strides=_plane(node, "strides"),
        dilations=dilations,
        pads=pads,
    )
    result = Value(name, (*shape, int(weights.shape[3])), _CHANNEL_FIRST)
    converter.mark_bare(result)
    return result


def _max_pool(converter: _Converter, node: Node) -> Value:
    kernel = _plane(node, "ksize")
    value, pads, shape = _window(converter, node, kernel, [1, 1], -math.inf)
    name = converter.builder.node(
        "MaxPool",
        value.name,
        kernel_shape=kernel,
        strides=_plane(node, "strides"),
        pads=pads,
    )
    return Value(name, (*shape, value.shape[3]), _CHANNEL_FIRST)


def _add(converter: _Converter, node: Node) -> Value:
    left = converter.value(node.inputs[0])
    if not converter.is_constant(node.inputs[1]):
        left = converter.settle(left, left.order)
        right = converter.settle(converter.value(node.inputs[1]), left.order)
        return replace(left, name=converter.builder.node("Add", left.name, right.name))
    added = converter.constant(node, 1)
    if added.ndim == 1 and converter.takes_bias(node, left):
        converter.builder.add_bias(left.name, added)
        return left
    left = converter.settle(left, left.order)
    added = added.reshape((1,) * (len(left.shape) - added.ndim) + added.shape)
    constant = converter.builder.constant(added.transpose(np.argsort(left.order)))
    return replace(left, name=converter.builder.node("Add", left.name, constant))


def _activation(op: str, **renamed: str) -> Callable[[_Converter, Node], Value]:
    """Returns a handler of an element-wise operation; `renamed` maps ONNX attributes to TensorFlow's."""

    def handle(converter: _Converter, node: Node) -> Value:
        value = converter.value(node.inputs[0])
        value = converter.settle(value, value.order)
        attributes = {ours: float(node.attributes[theirs]["f"]) for ours, theirs in renamed.items()}
        return replace(value, name=converter.builder.node(op, value.name, **attributes))

    return handle


def _concat(converter: _Converter, node: Node) -> Value:
    axis = int(converter.constant(node, -1))
    values = [converter.value(name) for name in node.inputs[:-1]]
    values = [converter.settle(value, values[0].order) for value in values]
    axis %= len(values[0].shape)
    name = converter.builder.node("Concat", *(value.name for value in values), axis=values[0].order[axis])
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    return replace(values[0], name=name, shape=tuple(shape))


def _resize(converter: _Converter, node: Node) -> Value:
    """Converts to factors instead of sizes, so that the graph works at other input sizes, too."""
    value = converter.settle(converter.value(node.inputs[0]), _CHANNEL_FIRST)
    height, width = (int(one) for one in converter.constant(node, 1))
    if not node.attributes["half_pixel_centers"]["b"] or node.attributes["align_corners"]["b"]:
        raise CorruptModel(f"ResizeBilinear `{node.name}`: only half-pixel centres can be converted")
    factors = [
        1.0,
        1.0,
        float(Fraction(height, value.shape[1])),
        float(Fraction(width, value.shape[2])),
    ]
    name = converter.builder.node(
        "Resize",
        value.name,
        "",
        converter.builder.constant(factors),
        mode="linear",
        coordinate_transformation_mode="half_pixel",
    )
    return Value(name, (value.shape[0], height, width, value.shape[3]), _CHANNEL_FIRST)


def _transpose(converter: _Converter, node: Node) -> Value:
    value = converter.value(node.inputs[0])
    permutation = [int(axis) for axis in converter.constant(node, 1)]
    return Value(
        value.name,
        tuple(value.shape[axis] for axis in permutation),
        tuple(value.order[axis] for axis in permutation),
        tuple(value.pads[axis] for axis in permutation) if value.pads else (),
        value.pad_value,
    )


def _pad(converter: _Converter, node: Node) -> Value:
    value = converter.value(node.inputs[0])
    value = converter.settle(value, value.order)
    pads = tuple((int(before), int(after)) for before, after in converter.constant(node, 1))
    filler = float(converter.constant(node, 2)) if node.op == "PadV2" else 0.0
    return replace(value, pads=pads, pad_value=filler)


def _identity(converter: _Converter, node: Node) -> Value:
    return converter.value(node.inputs[0])


_HANDLERS: dict[str, Callable[[_Converter, Node], Value]] = {
    "Add": _add,
    "AddV2": _add,
    "BiasAdd": _add,
    "ConcatV2": _concat,
    "Conv2D": _conv,
    "Identity": _identity,
    "LeakyRelu": _activation("LeakyRelu", alpha="alpha"),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "PadV2": _pad,
    "Relu": _activation("Relu"),
    "ResizeBilinear": _resize,
    "Sigmoid": _activation("Sigmoid"),
    "Transpose": _transpose,
}
