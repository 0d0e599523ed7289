"""Builds the detector: NanoDet-g with a camera frame in and boxes out, all in one ONNX graph.

The frame is resized while it is still bytes, because that is the cheapest place on every runtime measured; boxes
come back in the frame's own pixels. Non-maximum suppression is left to native code, after the engine.

Source: the decoding follows NanoDet's distribution focal loss head (Li et al. 2020, Generalized Focal Loss):
each side of a box is the mean of a softmax over `BINS` distances, in units of the level's stride.
"""

import numpy as np
import onnx
from onnx import TensorProto

from engines.assets.graph import GraphBuilder
from engines.assets.tfjs import TfjsModel, append_tfjs

CLASSES = 80
BINS = 11
STRIDES = (8, 16, 32)
# Blue, green, red: the order of the network and of camera frames alike.
MEAN = (103.53, 116.28, 123.675)
DEVIATION = (57.375, 57.12, 58.395)


def build_nanodet(model: TfjsModel, size: int) -> onnx.ModelProto:
    """Returns `frame` uint8[batch, height, width, 3] -> `boxes` [batch, A, 4], `scores` [batch, A, 80].

    Args:
        model: the parsed network, with one SplitV per head that separates class scores from distances.
        size: side of the square that the network sees, a multiple of 32; A is then
            `(size/8)**2 + (size/16)**2 + (size/32)**2`.

    Returns:
        A graph whose boxes are x0, y0, x1, y1 in pixels of the frame, clipped to it, and whose scores are
        probabilities per class; both FP32.
    """
    assert size % STRIDES[-1] == 0, "every level must be a whole number of cells"
    builder = GraphBuilder(f"nanodet_{size}")
    frame = builder.input("frame", TensorProto.UINT8, ("batch", "height", "width", 3))
    image = _normalised(builder, frame, size)
    splits = [node.inputs[0] for node in model.nodes.values() if node.op == "SplitV"]
    heads = append_tfjs(builder, model, image, splits)
    heads.sort(key=lambda head: -head.shape[2])
    scores, distances = [], []
    for head in heads:
        flat = builder.node("Reshape", head.name, builder.integers(0, CLASSES + 4 * BINS, -1))
        parts = builder.nodes("Split", 2, flat, builder.integers(CLASSES, 4 * BINS), axis=1)
        scores.append(parts[0])
        distances.append(parts[1])
    score = builder.node("Sigmoid", builder.node("Concat", *scores, axis=2))
    anchors = sum((size // stride) ** 2 for stride in STRIDES)
    builder.output(
        _boxes(builder, frame, builder.node("Concat", *distances, axis=2), size),
        "boxes",
        TensorProto.FLOAT,
        ("batch", anchors, 4),
    )
    builder.output(
        builder.node("Transpose", score, perm=[0, 2, 1]),
        "scores",
        TensorProto.FLOAT,
        ("batch", anchors, CLASSES),
    )
    return builder.build()


def _normalised(builder: GraphBuilder, frame: str, size: int) -> str:
    resized = builder.resize(frame, size, size)
    centred = builder.node(
        "Sub",
        builder.node("Cast", resized, to=TensorProto.FLOAT),
        builder.constant(MEAN),
    )
    scaled = builder.node("Mul", centred, builder.constant(1 / np.asarray(DEVIATION)))
    return builder.node("Transpose", scaled, perm=[0, 3, 1, 2])


def _boxes(builder: GraphBuilder, frame: str, distances: str, size: int) -> str:
    bins = builder.node("Reshape", distances, builder.integers(0, 4, BINS, -1))
    weights = builder.node("Softmax", bins, axis=2)
    weighted = builder.node("Mul", weights, builder.constant(np.arange(BINS).reshape(1, 1, BINS, 1)))
    sides = builder.node("ReduceSum", weighted, builder.integers(2), keepdims=0)
    centres, steps = _cells(size)
    moved = builder.node("Mul", sides, builder.constant(steps))
    boxes = builder.node("Add", moved, builder.constant(centres))
    by_anchor = builder.node("Transpose", boxes, perm=[0, 2, 1])
    shape = builder.node("Shape", frame)
    limit = builder.node("Gather", shape, builder.integers(2, 1, 2, 1))
    limit = builder.node("Cast", limit, to=TensorProto.FLOAT)
    factor = builder.node("Mul", limit, builder.constant(1 / size))
    in_frame = builder.node("Mul", by_anchor, factor)
    return builder.node("Min", builder.node("Max", in_frame, builder.constant(0.0)), limit)


def _cells(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres [1, 4, A] (x, y, x, y) and what one unit of distance adds to each side."""
    centres, steps = [], []
    for stride in STRIDES:
        cells = size // stride
        y, x = np.divmod(np.arange(cells * cells), cells)
        centre = np.stack([(x + 0.5) * stride, (y + 0.5) * stride])
        centres.append(np.concatenate([centre, centre]))
        steps.append(np.outer([-stride, -stride, stride, stride], np.ones(cells * cells)))
    return np.concatenate(centres, 1)[None], np.concatenate(steps, 1)[None]
