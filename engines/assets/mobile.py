"""Builds mobile convolution networks from PyTorch weights: inverted residual blocks, batch norms folded in."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from engines.assets.graph import GraphBuilder
from engines.errors import CorruptModel

SIDE = 224
# Pictures are scaled to this side and their middle is cut out, as in the training of both networks.
SCALED_SIDE = 256


class MobileBuilder:
    """Appends layers whose weights are looked up by their PyTorch names.

    Args:
        graph: receives the nodes.
        weights: tensors by name.
        epsilon: what the batch norms add to the variance.
        same: pad as TensorFlow does, with the odd row at the bottom and right, instead of evenly.
    """

    def __init__(
        self, graph: GraphBuilder, weights: Mapping[str, npt.NDArray[Any]], *, epsilon: float, same: bool
    ) -> None:
        self.graph = graph
        self._weights = weights
        self._epsilon = epsilon
        self._same = same

    def weight(self, name: str) -> npt.NDArray[Any]:
        """Returns a tensor; raises `CorruptModel` when it is missing."""
        try:
            return self._weights[name]
        except KeyError as error:
            raise CorruptModel(f"the weights have no tensor {name!r}; expected those of the pinned package") from error

    def has(self, name: str) -> bool:
        """Returns whether there is a tensor of this name."""
        return name in self._weights

    def conv(self, value: str, conv: str, norm: str, *, stride: int = 1, clip: bool = True) -> str:
        """Appends a convolution with its batch norm, then ReLU6 if `clip`."""
        weight = self.weight(f"{conv}.weight")
        gain = self.weight(f"{norm}.weight") / np.sqrt(self.weight(f"{norm}.running_var") + self._epsilon)
        bias = self.weight(f"{norm}.bias") - self.weight(f"{norm}.running_mean") * gain
        side = int(weight.shape[2])
        depthwise = weight.shape[1] == 1 and side > 1
        padding: dict[str, Any] = {"auto_pad": "SAME_UPPER"} if self._same else {"pads": [side // 2] * 4}
        result = self.graph.node(
            "Conv",
            value,
            self.graph.constant(weight * gain[:, None, None, None]),
            self.graph.constant(bias),
            strides=[stride, stride],
            group=int(weight.shape[0]) if depthwise else 1,
            kernel_shape=[side, side],
            **padding,
        )
        if not clip:
            return result
        return self.graph.node("Clip", result, self.graph.constant(0.0), self.graph.constant(6.0))

    def pooled(self, value: str) -> str:
        """Appends the mean over the plane: [batch, channels]."""
        return self.graph.node("Flatten", self.graph.node("GlobalAveragePool", value), axis=1)


def append_picture(graph: GraphBuilder, frame: str, mean: npt.ArrayLike, deviation: npt.ArrayLike) -> str:
    """Appends what turns uint8[batch, height, width, 3] BGR into the RGB [batch, 3, 224, 224] that networks see.

    Args:
        graph: receives the nodes.
        frame: the input.
        mean: what is subtracted; per red, green, blue, or one for all, in steps of 0 to 255.
        deviation: what is divided by, likewise.
    """
    scaled = graph.resize(frame, SCALED_SIDE, SCALED_SIDE)
    edge = (SCALED_SIDE - SIDE) // 2
    cut = graph.node(
        "Slice",
        scaled,
        graph.integers(edge, edge),
        graph.integers(edge + SIDE, edge + SIDE),
        graph.integers(1, 2),
    )
    image = graph.node("Cast", cut, to=TensorProto.FLOAT)
    rgb = graph.node("Gather", image, graph.integers(2, 1, 0), axis=3)
    centred = graph.node("Sub", rgb, graph.constant(np.broadcast_to(mean, 3)))
    normal = graph.node("Mul", centred, graph.constant(1 / np.broadcast_to(deviation, 3)))
    return graph.node("Transpose", normal, perm=[0, 3, 1, 2])
