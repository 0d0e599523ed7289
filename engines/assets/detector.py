"""Makes the detector in one size: converts, quantises, measures and describes it."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from engines.agreement import BoxAgreement, Detections, compare_boxes, suppress
from engines.assets.errors import QualityTooLow
from engines.assets.making import Materials
from engines.assets.nanodet import build_nanodet
from engines.assets.packages import (
    COCO_NAMES,
    NANODET_TOPOLOGY,
    NANODET_WEIGHTS,
    PEDESTRIAN_VIDEO,
)
from engines.assets.pictures import describe_vision
from engines.assets.tfjs import read_tfjs
from engines.assets.video import read_frames
from engines.config import DataType, ModelConfig, Postprocess, TensorConfig
from engines.quantize import Recipe, quantization_report, quantize
from engines.repository import Release
from engines.runners import RUNTIMES, Runner

BOXES_MAX = 100
SCORE_THRESHOLD = 0.35
IOU_THRESHOLD = 0.5
# Calibration sees the first 300 frames of the video, agreement is measured on the rest.
CALIBRATION_FRAMES = range(0, 300, 12)
HELD_OUT_FRAMES = range(310, 795, 16)
AGREEMENT_BAR = 0.93


def make_nanodet(
    materials: Materials, *, size: int, keep_heads: bool = False, larger_size: int | None = None
) -> Release:
    """Returns the release of the detector whose network sees a square of `size`.

    Args:
        materials: the network, the class names and the video.
        size: side of the square, a multiple of 32.
        keep_heads: leave the last convolution of each level in float; costs time, gains agreement.
        larger_size: also report which share of the boxes of this larger FP32 network is found; no bar.

    Raises:
        CorruptModel: the network cannot be converted.
        QualityTooLow: INT8 finds fewer than `AGREEMENT_BAR` of the boxes that FP32 finds.
    """
    contents = materials.contents
    network = read_tfjs(contents[NANODET_TOPOLOGY], contents[NANODET_WEIGHTS])
    exact = build_nanodet(network, size)
    recipe = Recipe(keep=frozenset(_sensitive(exact, heads=keep_heads)))
    with materials.progress.step(f"quantise {materials.asset}", len(CALIBRATION_FRAMES)) as progress:
        frames = ({"frame": frame[None]} for frame in read_frames(contents[PEDESTRIAN_VIDEO], CALIBRATION_FRAMES))
        small = quantize(exact, frames, recipe, report=progress)
    agreement = _compare(exact, small, materials, "FP32")
    for runtime, found in agreement.items():
        check_agreement(f"{materials.asset} on {runtime}", found)
    report: dict[str, Any] = {
        "precision": "int8",
        "quantization": quantization_report(exact, small, samples=len(CALIBRATION_FRAMES)),
        "agreement": {**_as_report(agreement, "of INT8 against FP32"), "bar": AGREEMENT_BAR},
    }
    if larger_size is not None:
        larger = _compare(build_nanodet(network, larger_size), small, materials, f"FP32 at {larger_size}")
        report[f"agreement_{larger_size}"] = _as_report(larger, f"of INT8 against FP32 at {larger_size}")
    return materials.release(describe(materials.asset), small, report, materials.text_lines(COCO_NAMES))


def describe(name: str) -> ModelConfig:
    """Returns the detector's configuration: what agents see after the native suppression step."""
    outputs = (
        TensorConfig("boxes", DataType.FP32, (BOXES_MAX, 4)),
        TensorConfig("scores", DataType.FP32, (BOXES_MAX,)),
        TensorConfig("classes", DataType.INT32, (BOXES_MAX,), "labels.txt"),
        TensorConfig("count", DataType.INT32, ()),
    )
    return replace(
        describe_vision(name, *outputs),
        postprocess=Postprocess.NMS,
        nms_score_threshold=SCORE_THRESHOLD,
        nms_iou_threshold=IOU_THRESHOLD,
    )


def check_agreement(asset: str, agreement: BoxAgreement) -> None:
    """Raises `QualityTooLow` when fewer boxes are matched than `AGREEMENT_BAR` asks for."""
    if agreement.share < AGREEMENT_BAR or not agreement.matched:
        raise QualityTooLow(
            f"{asset}: INT8 finds {agreement.matched} of {agreement.matched + agreement.missed} boxes that FP32"
            f" finds ({agreement.share:.3f}); expected at least {AGREEMENT_BAR}; it was not published, keep"
            " more layers in float",
            asset=asset,
            measured=agreement.share,
            bar=AGREEMENT_BAR,
        )


def _sensitive(model: onnx.ModelProto, *, heads: bool) -> Iterator[str]:
    """Yields the names of the convolutions that stay in float.

    Always the one behind the pooling: it costs 1.3 of 17 ms and brings back a third of the boxes that INT8 loses. With
    `heads` also those that feed a reshape, the last of each level: a small network has no boxes to spare.
    """
    pooled = {node.output[0] for node in model.graph.node if node.op_type == "MaxPool"}
    flattened = {node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    for node in model.graph.node:
        if node.op_type == "Conv" and (node.input[0] in pooled or (heads and node.output[0] in flattened)):
            yield node.name


def _as_report(agreement: Mapping[str, BoxAgreement], which: str) -> dict[str, Any]:
    """Returns the counts of every runtime; `share` is that of the worst."""
    return {
        "what": f"boxes {which} on the same runtime, same class, IoU >= 0.5, held-out frames",
        "share": round(min(found.share for found in agreement.values()), 4),
        **{runtime: asdict(found) for runtime, found in agreement.items()},
    }


def _compare(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, materials: Materials, what: str
) -> dict[str, BoxAgreement]:
    """Returns, for each runtime, the agreement of the candidate with the reference on that same runtime.

    Runtimes round differently when they resize bytes; that is not what is measured here.
    """
    runners = {runtime: (build(reference), build(candidate)) for runtime, build in RUNTIMES.items()}
    pairs: dict[str, list[tuple[Detections, Detections]]] = {runtime: [] for runtime in RUNTIMES}
    with materials.progress.step(f"compare {materials.asset} with {what}", len(HELD_OUT_FRAMES)) as report:
        for at, frame in enumerate(read_frames(materials.contents[PEDESTRIAN_VIDEO], HELD_OUT_FRAMES)):
            for runtime, (exact, small) in runners.items():
                pairs[runtime].append((_detect(exact, frame), _detect(small, frame)))
            report(at + 1)
    return {runtime: compare_boxes(found) for runtime, found in pairs.items()}


def _detect(run: Runner, frame: npt.NDArray[np.uint8]) -> Detections:
    outputs = run({"frame": frame[None]})
    return suppress(
        outputs["boxes"][0],
        outputs["scores"][0],
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=IOU_THRESHOLD,
        limit=BOXES_MAX,
    )
