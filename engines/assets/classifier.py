"""Makes EfficientNet-Lite0: names the main thing in a frame.

Source: Tan and Le 2019, EfficientNet-B0, without squeeze-and-excitation and with ReLU6 (the "lite" variant).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto

from engines.assets.checkpoint import read_state_dict
from engines.assets.graph import GraphBuilder
from engines.assets.making import Materials
from engines.assets.mobile import MobileBuilder, append_picture
from engines.assets.packages import EFFICIENTNET_WEIGHTS, IMAGENET_NAMES
from engines.assets.pictures import CALIBRATION, describe_vision, quantize_by_pictures, report_rows
from engines.config import DataType, ModelConfig, TensorConfig
from engines.quantize import Recipe, quantization_report
from engines.repository import Release

CLASSES = 1000
# Repeats and first stride of each stage.
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
# Mean cosine of the logits with those of FP32 on pictures that calibration has not seen.
COSINE_BAR = 0.97


def make_efficientnet(materials: Materials) -> Release:
    """Returns the release of the classifier.

    Raises:
        CorruptModel: the weights or pictures are not what was pinned.
        QualityTooLow: INT8 logits differ too much from FP32's.
    """
    exact = build_efficientnet(read_state_dict(materials.contents[EFFICIENTNET_WEIGHTS]))
    recipe = Recipe(keep=frozenset(_first_convolution(exact)))
    small, agreement = quantize_by_pictures(materials, exact, recipe, output="logits", cosine_bar=COSINE_BAR)
    report = {
        "precision": "int8",
        "quantization": quantization_report(exact, small, samples=len(CALIBRATION)),
        "agreement": report_rows(agreement, "best classes of INT8 against FP32", ("share", "cosine"), bar=COSINE_BAR),
    }
    return materials.release(describe(materials.asset), small, report, materials.text_lines(IMAGENET_NAMES))


def describe(name: str) -> ModelConfig:
    """Returns the classifier's configuration."""
    return describe_vision(
        name,
        TensorConfig("logits", DataType.FP32, (CLASSES,)),
        TensorConfig("probabilities", DataType.FP32, (CLASSES,), "labels.txt"),
    )


def build_efficientnet(weights: Mapping[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    """Returns `frame` uint8[batch, height, width, 3] -> `logits`, `probabilities` FP32[batch, 1000]."""
    graph = GraphBuilder("efficientnet_lite0")
    frame = graph.input("frame", TensorProto.UINT8, ("batch", "height", "width", 3))
    layers = MobileBuilder(graph, weights, epsilon=1e-3, same=True)
    value = append_picture(graph, frame, 127.0, 128.0)
    value = layers.conv(value, "_conv_stem", "_bn0", stride=2)
    block = 0
    for repeats, first_stride in _STAGES:
        for repeat in range(repeats):
            prefix, stride = f"_blocks.{block}", first_stride if repeat == 0 else 1
            result = value
            if layers.has(f"{prefix}._expand_conv.weight"):
                result = layers.conv(result, f"{prefix}._expand_conv", f"{prefix}._bn0")
            result = layers.conv(result, f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride=stride)
            result = layers.conv(result, f"{prefix}._project_conv", f"{prefix}._bn2", clip=False)
            value = graph.node("Add", value, result) if repeat else result
            block += 1
    value = layers.pooled(layers.conv(value, "_conv_head", "_bn1"))
    weight, bias = (graph.constant(layers.weight(f"_fc.{one}")) for one in ("weight", "bias"))
    logits = graph.node("Gemm", value, weight, bias, transB=1)
    graph.output(logits, "logits", TensorProto.FLOAT, ("batch", CLASSES))
    graph.output(graph.node("Softmax", logits, axis=1), "probabilities", TensorProto.FLOAT, ("batch", CLASSES))
    return graph.build()


def _first_convolution(model: onnx.ModelProto) -> Iterable[str]:
    return [next(node.name for node in model.graph.node if node.op_type == "Conv")]
