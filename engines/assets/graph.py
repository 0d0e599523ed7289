"""Builds ONNX graphs node by node, naming what needs no name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

# 18 is the first opset where Resize takes `axes`; runtimes of the last three years read it.
OPSET = 18
# The file format of onnx 1.14: what every runtime that knows opset 18 can open.
IR_VERSION = 9

Shape = Sequence[int | str]


class GraphBuilder:
    """Collects nodes and constants; `build` makes a checked model of them.

    Args:
        name: name of the graph, shown by viewers and in errors of runtimes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._renamed: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<GraphBuilder {self._name} nodes={len(self._nodes)} constants={len(self._constants)}>"

    def input(self, name: str, data_type: int, shape: Shape) -> str:
        """Declares an input; a string in `shape` names a dimension that may be any length."""
        self._inputs.append(helper.make_tensor_value_info(name, data_type, list(shape)))
        return name

    def output(self, value: str, name: str, data_type: int, shape: Shape) -> None:
        """Declares that `value` is answered as `name`; it goes by its old name until `build`."""
        assert value not in self._renamed, "a value is answered once"
        self._renamed[value] = name
        self._outputs.append(helper.make_tensor_value_info(name, data_type, list(shape)))

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Adds a constant and returns its name."""
        name = f"c{len(self._constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Adds a one-dimensional int64 constant, the kind that shapes, axes and sizes want."""
        return self.constant(values, np.int64)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output and returns the output's name; an empty input name means absent."""
        return self.nodes(op, 1, *inputs, **attributes)[0]

    def nodes(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Adds a node with `count` outputs and returns their names."""
        name = f"{op.lower()}_{len(self._nodes)}"
        outputs = [name] if count == 1 else [f"{name}.{at}" for at in range(count)]
        self._nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def resize(self, picture: str, height: int, width: int) -> str:
        """Scales pictures [batch, height, width, channels] to a fixed size: linear, between the centres of pixels."""
        return self.node(
            "Resize",
            picture,
            "",
            "",
            self.integers(height, width),
            axes=[1, 2],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )

    def add_bias(self, convolution: str, bias: npt.ArrayLike) -> None:
        """Gives the `Conv` that makes `convolution` a bias; it must not have one yet."""
        node = next(node for node in self._nodes if convolution in node.output)
        assert (node.op_type, len(node.input)) == ("Conv", 2), "only a bare Conv can take a bias"
        node.input.append(self.constant(bias))

    def build(self) -> onnx.ModelProto:
        """Returns the model; inconsistent graphs are a bug of the caller and raise onnx's own error."""
        for node in self._nodes:
            # An answered value has one name only, so that runtimes cannot report it by another.
            for names in (node.input, node.output):
                names[:] = [self._renamed.get(name, name) for name in names]
        graph = helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="starling",
        )
        onnx.checker.check_model(model, full_check=True)
        return model
