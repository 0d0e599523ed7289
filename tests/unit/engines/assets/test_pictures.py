"""Tests of quantising networks that look at pictures: what is refused."""

from collections.abc import Mapping

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engines.assets.errors import QualityTooLow
from engines.assets.graph import GraphBuilder
from engines.assets.making import Materials
from engines.assets.packages import CALIBRATION_PICTURES, Member
from engines.assets.pictures import quantize_by_pictures
from engines.assets.progress import SilentProgress
from engines.errors import CorruptModel
from engines.quantize import Recipe, quantized_share
from engines.runners import RUNTIMES

RNG = np.random.default_rng(5)


def tiny_network() -> onnx.ModelProto:
    """Returns one convolution over a picture, pooled: `frame` to `row` FP32[batch, 8]."""
    graph = GraphBuilder("tiny")
    frame = graph.input("frame", TensorProto.UINT8, ("batch", "height", "width", 3))
    image = graph.node("Transpose", graph.node("Cast", frame, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    weight = graph.constant(RNG.standard_normal((8, 3, 3, 3)))
    pooled = graph.node("GlobalAveragePool", graph.node("Conv", image, weight, kernel_shape=[3, 3]))
    graph.output(graph.node("Flatten", pooled, axis=1), "row", TensorProto.FLOAT, ("batch", 8))
    return graph.build()


def materials() -> Materials:
    contents: Mapping[Member, bytes] = {
        one: cv2.imencode(".png", RNG.integers(0, 256, (24, 32, 3), np.uint8))[1].tobytes()
        for one in CALIBRATION_PICTURES
    }
    return Materials("tiny", contents, "MIT", SilentProgress())


def test_agreement_is_measured_on_every_runtime() -> None:
    exact = tiny_network()
    small, agreement = quantize_by_pictures(materials(), exact, Recipe(), output="row", cosine_bar=0.9)
    assert quantized_share(small) == (1, 1)
    assert set(agreement) == set(RUNTIMES)
    assert all(0.9 <= one.cosine <= 1.0001 and 0 <= one.share <= 1 for one in agreement.values())


def test_what_misses_the_bar_is_refused() -> None:
    with pytest.raises(
        QualityTooLow, match=r"tiny: the cosine of INT8 and FP32 row is .*; expected at least 1.1"
    ) as refused:
        quantize_by_pictures(materials(), tiny_network(), Recipe(), output="row", cosine_bar=1.1)
    assert refused.value.bar == 1.1
    assert refused.value.measured > 0.9


def test_bytes_that_are_no_picture_are_refused() -> None:
    broken = materials()
    contents = {**broken.contents, CALIBRATION_PICTURES[0]: b"no picture"}
    with pytest.raises(CorruptModel, match="not a picture"):
        quantize_by_pictures(
            Materials("tiny", contents, "MIT", SilentProgress()), tiny_network(), Recipe(), output="row", cosine_bar=0.9
        )
