"""Makes the detector in one size: converts, quantises, measures and describes it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

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
from engines.assets.progress import Report
from engines.assets.tfjs import read_tfjs
from engines.assets.video import read_frames
from engines.config import DataType, ModelConfig, Postprocess, TensorConfig
from engines.quantize import Recipe, quantize, quantized_share, session
from engines.repository import MODEL_NAME, Release

VERSION = 1
BOXES_MAX = 100
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
    contents, progress = materials.contents, materials.progress
    network = read_tfjs(contents[NANODET_TOPOLOGY], contents[NANODET_WEIGHTS])
    exact = build_nanodet(network, size)
    video = contents[PEDESTRIAN_VIDEO]
    recipe = Recipe(keep=frozenset(_heads(exact) if keep_heads else ()))
    with progress.step(f"quantise {materials.asset}", len(CALIBRATION_FRAMES)) as report:
        frames = ({"frame": frame[None]} for frame in read_frames(video, CALIBRATION_FRAMES))
        small = quantize(exact, frames, recipe, report=report)
    config = describe(materials.asset)
    with progress.step(f"compare {materials.asset} with FP32", len(HELD_OUT_FRAMES)) as report:
        agreement = _compare(exact, small, video, config, report)
    check_agreement(materials.asset, agreement)
    more = {}
    if larger_size is not None:
        with progress.step(f"compare {materials.asset} with {larger_size}", len(HELD_OUT_FRAMES)) as report:
            larger = _compare(build_nanodet(network, larger_size), small, video, config, report)
        more[f"agreement_{larger_size}"] = _as_report(larger, f"of INT8 against FP32 at {larger_size}")
    stored, weighted = quantized_share(small)
    return Release(
        config=config,
        version=VERSION,
        files={MODEL_NAME: small.SerializeToString(deterministic=True)},
        labels=materials.text_lines(COCO_NAMES),
        license=materials.license,
        sources=materials.sources,
        report={
            "precision": "int8",
            "quantization": {
                "activations": "int8, symmetric, per tensor",
                "weights": "int8, symmetric, per output channel",
                "layers": weighted,
                "layers_int8": stored,
                "calibration_frames": len(CALIBRATION_FRAMES),
                "fp32_bytes": exact.ByteSize(),
            },
            "agreement": {**_as_report(agreement, "of INT8 against FP32"), "bar": AGREEMENT_BAR},
            **more,
        },
    )


def describe(name: str) -> ModelConfig:
    """Returns the detector's configuration: what agents see after the native suppression step."""
    return ModelConfig(
        name=name,
        backend="openvino",
        # A convolution network gains next to nothing from batches on a CPU; requests of a few frames still fit.
        max_batch_size=4,
        preferred_batch_sizes=(1, 2, 4),
        inputs=(TensorConfig("frame", DataType.UINT8, (-1, -1, 3)),),
        outputs=(
            TensorConfig("boxes", DataType.FP32, (BOXES_MAX, 4)),
            TensorConfig("scores", DataType.FP32, (BOXES_MAX,)),
            TensorConfig("classes", DataType.INT32, (BOXES_MAX,), "labels.txt"),
            TensorConfig("count", DataType.INT32, ()),
        ),
        postprocess=Postprocess.NMS,
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


def _heads(model: onnx.ModelProto) -> Iterator[str]:
    """Yields the names of the convolutions that feed a reshape directly: the last of each level."""
    flattened = {node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] in flattened:
            yield node.name


def _as_report(agreement: BoxAgreement, which: str) -> dict[str, Any]:
    return {
        "what": f"boxes {which}, same class, IoU >= 0.5, held-out frames",
        "frames": agreement.frames,
        "matched": agreement.matched,
        "missed": agreement.missed,
        "extra": agreement.extra,
        "share": round(agreement.share, 4),
    }


def _compare(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    video: bytes,
    config: ModelConfig,
    report: Report,
) -> BoxAgreement:
    runners = session(reference), session(candidate)

    def pairs() -> Iterator[tuple[Detections, Detections]]:
        for at, frame in enumerate(read_frames(video, HELD_OUT_FRAMES)):
            yield _detect(runners[0], frame, config), _detect(runners[1], frame, config)
            report(at + 1)

    return compare_boxes(pairs())


def _detect(
    runner: onnxruntime.InferenceSession,
    frame: npt.NDArray[np.uint8],
    config: ModelConfig,
) -> Detections:
    boxes, scores = runner.run(["boxes", "scores"], {"frame": frame[None]})
    return suppress(
        boxes[0],
        scores[0],
        score_threshold=config.nms_score_threshold,
        iou_threshold=config.nms_iou_threshold,
        limit=BOXES_MAX,
    )
