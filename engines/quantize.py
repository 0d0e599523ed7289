"""Makes INT8 models: explicit quantise/dequantise pairs that OpenVINO, ONNX Runtime and TensorRT all read.

The recipe is the one TensorRT's parser accepts: symmetric int8 with zero point 0, one scale per output channel of a
weight, float biases, and pairs only on the inputs of the operations that gain from it. Everything else, such as the
decoding of boxes, stays in float. Whether a model survives this is not assumed but measured: see
`engines.agreement`.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from engines.runners import Runner, onnxruntime_runner

Array = npt.NDArray[Any]
Sample = Mapping[str, Array]

# The largest magnitude of symmetric int8; -128 is left unused so that negation is exact.
LEVELS = 127
# What can be quantised: the output channel is the first axis of the weight (of a Gemm, when `transB` is set).
QUANTIZABLE = frozenset({"Conv", "Gemm"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to quantise and how to choose scales.

    Attributes:
        operations: ONNX operations whose inputs become int8.
        keep: names of nodes that stay in float although their operation is listed.
        coverage: share of a sample's magnitudes that the scale covers, 0 to 1; the rest saturates.
    """

    operations: frozenset[str] = QUANTIZABLE
    keep: frozenset[str] = frozenset()
    coverage: float = 1.0

    def __post_init__(self) -> None:
        unknown = self.operations - QUANTIZABLE
        assert not unknown, f"cannot quantise {sorted(unknown)}"


def quantize(
    model: onnx.ModelProto,
    samples: Iterable[Sample],
    recipe: Recipe,
    *,
    report: Callable[[int], None] | None = None,
) -> onnx.ModelProto:
    """Returns an INT8 copy of `model`.

    Args:
        model: a float model with constant weights; not changed.
        samples: inputs by name, representative of what will be served; at least one, each run once.
        recipe: what to quantise.
        report: called after each sample with their number so far.

    Returns:
        The copy, with one quantise/dequantise pair per activation however many operations read it.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {one.name: one for one in result.graph.initializer}
    targets = [node for node in _weighted(result) if node.op_type in recipe.operations and node.name not in recipe.keep]
    scales = _activation_scales(model, {node.input[0] for node in targets}, samples, recipe, report)
    nodes: list[onnx.NodeProto] = []
    paired: dict[str, str] = {}
    for node in result.graph.node:
        if node in targets:
            if node.input[0] not in paired:
                source = _bounded(result.graph, nodes, node.input[0], scales[node.input[0]])
                paired[node.input[0]] = _pair(result.graph, nodes, source, scales[node.input[0]])
            weight = numpy_helper.to_array(weights[node.input[1]])
            node.input[1] = _stored_weight(result.graph, nodes, node.input[1], weight)
            node.input[0] = paired[node.input[0]]
        nodes.append(node)
    _replace_nodes(result.graph, nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def quantized_share(model: onnx.ModelProto) -> tuple[int, int]:
    """Returns how many weighted operations read an int8 weight, and how many there are."""
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    weighted = [node for node in model.graph.node if node.op_type in QUANTIZABLE]
    stored = [node for node in weighted if makers.get(node.input[1]) == "DequantizeLinear"]
    return len(stored), len(weighted)


def quantization_report(exact: onnx.ModelProto, small: onnx.ModelProto, *, samples: int) -> dict[str, str | int]:
    """Returns what a manifest says about how `small` was made of `exact` from that many calibration samples."""
    stored, weighted = quantized_share(small)
    return {
        "activations": "int8, symmetric, per tensor",
        "weights": "int8, symmetric, per output channel",
        "layers": weighted,
        "layers_int8": stored,
        "calibration_samples": samples,
        "fp32_bytes": exact.ByteSize(),
    }


def _weighted(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yields the nodes that could be quantised: those with a constant weight, output channel first."""
    constants = {one.name for one in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in QUANTIZABLE and node.input[1] in constants:
            flipped = any(one.name == "transB" and one.i == 1 for one in node.attribute)
            if node.op_type == "Conv" or flipped:
                yield node


def _activation_scales(
    model: onnx.ModelProto,
    names: Collection[str],
    samples: Iterable[Sample],
    recipe: Recipe,
    report: Callable[[int], None] | None,
) -> dict[str, float]:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.ClearField("output")
    for name in sorted(names):
        watched.graph.output.append(helper.make_empty_tensor_value_info(name))
    run: Runner = onnxruntime_runner(watched)
    largest = dict.fromkeys(sorted(names), 0.0)
    count = 0
    for sample in samples:
        for name, value in run(sample).items():
            largest[name] = max(largest[name], _magnitude(value, recipe.coverage))
        count += 1
        if report is not None:
            report(count)
    assert count, "calibration needs at least one sample"
    return {name: max(value, 1e-12) / LEVELS for name, value in largest.items()}


def _magnitude(value: Array, coverage: float) -> float:
    """Returns the magnitude that `coverage` of the elements stay below."""
    magnitudes = np.abs(value, dtype=np.float32).ravel()
    at = min(len(magnitudes) - 1, int(len(magnitudes) * coverage))
    return float(np.partition(magnitudes, at)[at])


def _bounded(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], name: str, scale: float) -> str:
    """Returns `name`, clipped to the quantised range where a concatenation makes it.

    OpenVINO (2026.4) moves a quantisation from behind a `Concat` to its inputs and then takes signed values for
    unsigned ones. Saturating to -127 first changes nothing that matters and keeps the quantisation in its place.
    """
    if not any(node.op_type == "Concat" and name in node.output for node in nodes):
        return name
    bounds = [
        _constant(graph, f"{name}.{side}", np.float32(sign * LEVELS * scale))
        for side, sign in (("least", -1), ("most", 1))
    ]
    nodes.append(helper.make_node("Clip", [name, *bounds], [f"{name}.clipped"], name=f"{name}.clipped"))
    return f"{name}.clipped"


def _pair(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], name: str, scale: float) -> str:
    """Appends a quantise/dequantise pair on `name` and returns the pair's output."""
    factor = _constant(graph, f"{name}.scale", np.float32(scale))
    zero = _constant(graph, f"{name}.zero", np.int8(0))
    for op, source, result in (
        ("QuantizeLinear", name, f"{name}.int8"),
        ("DequantizeLinear", f"{name}.int8", f"{name}.float"),
    ):
        nodes.append(helper.make_node(op, [source, factor, zero], [result], name=result))
    return f"{name}.float"


def _stored_weight(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    name: str,
    weight: Array,
) -> str:
    """Stores `weight` as int8 with a scale per output channel; returns the dequantised value."""
    result = f"{name}.float"
    if any(result in node.output for node in nodes):
        return result
    others = tuple(range(1, weight.ndim))
    scale = np.maximum(np.abs(weight).max(others, keepdims=True), 1e-12) / LEVELS
    stored = np.clip(np.rint(weight / scale), -LEVELS, LEVELS).astype(np.int8)
    inputs = [
        _constant(graph, f"{name}.int8", stored),
        _constant(graph, f"{name}.scale", scale.astype(np.float32).ravel()),
        _constant(graph, f"{name}.zero", np.zeros(scale.size, np.int8)),
    ]
    nodes.append(helper.make_node("DequantizeLinear", inputs, [result], name=result, axis=0))
    return result


def _constant(graph: onnx.GraphProto, name: str, value: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Makes `nodes` the graph's nodes and drops constants that none of them reads."""
    graph.ClearField("node")
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
