"""Makes MobileNetV2 as an image embedding: alike pictures get alike vectors.

Source: Sandler et al. 2018, table 2; the classifier is left off.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from engines.assets.checkpoint import read_state_dict
from engines.assets.graph import GraphBuilder
from engines.assets.making import Materials
from engines.assets.mobile import MobileBuilder, append_picture
from engines.assets.packages import MOBILENET_WEIGHTS
from engines.assets.pictures import CALIBRATION, describe_vision, quantize_by_pictures, report_rows
from engines.config import DataType, ModelConfig, TensorConfig
from engines.quantize import Recipe, quantization_report
from engines.repository import Release

LENGTH = 1280
# Mean cosine of INT8 embeddings with those of FP32 on pictures that calibration has not seen.
COSINE_BAR = 0.96
# The rest saturates: few values are far out, and covering them would coarsen all others. Measured, as is that keeping
# the first convolution in float gains nothing.
_COVERAGE = 0.9999
# ImageNet statistics, red, green, blue.
MEAN = 255 * np.array([0.485, 0.456, 0.406])
DEVIATION = 255 * np.array([0.229, 0.224, 0.225])
# Expansion, channels, repeats, stride of each stage.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def make_mobilenet(materials: Materials) -> Release:
    """Returns the release of the embedding, in FP32; raises `CorruptModel` for other weights."""
    model = build_mobilenet(read_state_dict(materials.contents[MOBILENET_WEIGHTS]))
    return materials.release(describe(materials.asset), model, {"precision": "fp32"})


def make_mobilenet_int8(materials: Materials) -> Release:
    """Returns the release of the embedding, in INT8.

    Raises:
        CorruptModel: the weights or pictures are not what was pinned.
        QualityTooLow: INT8 embeddings differ too much from FP32's.
    """
    exact = build_mobilenet(read_state_dict(materials.contents[MOBILENET_WEIGHTS]))
    recipe = Recipe(coverage=_COVERAGE)
    small, agreement = quantize_by_pictures(materials, exact, recipe, output="embedding", cosine_bar=COSINE_BAR)
    report = {
        "precision": "int8",
        "quantization": quantization_report(exact, small, samples=len(CALIBRATION)),
        "agreement": report_rows(agreement, "embeddings of INT8 against FP32", ("cosine",), bar=COSINE_BAR),
    }
    return materials.release(describe(materials.asset), small, report)


def describe(name: str) -> ModelConfig:
    """Returns the embedding's configuration."""
    return describe_vision(name, TensorConfig("embedding", DataType.FP32, (LENGTH,)))


def build_mobilenet(weights: Mapping[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    """Returns `frame` uint8[batch, height, width, 3] -> `embedding` FP32[batch, 1280] of length 1."""
    graph = GraphBuilder("mobilenetv2_embed")
    frame = graph.input("frame", TensorProto.UINT8, ("batch", "height", "width", 3))
    layers = MobileBuilder(graph, weights, epsilon=1e-5, same=False)
    value = append_picture(graph, frame, MEAN, DEVIATION)
    value = layers.conv(value, "features.0.0", "features.0.1", stride=2)
    block = 1
    for expansion, _, repeats, first_stride in _STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            result = _residual(layers, value, f"features.{block}.conv", expansion, stride)
            value = graph.node("Add", value, result) if repeat else result
            block += 1
    value = layers.pooled(layers.conv(value, f"features.{block}.0", f"features.{block}.1"))
    length = graph.node("ReduceL2", value, graph.integers(1), keepdims=1)
    unit = graph.node("Div", value, graph.node("Max", length, graph.constant(1e-12)))
    graph.output(unit, "embedding", TensorProto.FLOAT, ("batch", LENGTH))
    return graph.build()


def _residual(layers: MobileBuilder, value: str, prefix: str, expansion: int, stride: int) -> str:
    at = 0
    if expansion > 1:
        value = layers.conv(value, f"{prefix}.0", f"{prefix}.1")
        at = 3
    value = layers.conv(value, f"{prefix}.{at}", f"{prefix}.{at + 1}", stride=stride)
    return layers.conv(value, f"{prefix}.{at + 3}", f"{prefix}.{at + 4}", clip=False)
