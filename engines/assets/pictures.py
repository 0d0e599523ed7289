"""Describes and quantises networks that look at pictures, and measures on other pictures what that costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx

from engines.agreement import compare_rows
from engines.assets.errors import QualityTooLow
from engines.assets.making import Materials
from engines.assets.packages import CALIBRATION_PICTURES, Member
from engines.config import DataType, ModelConfig, TensorConfig
from engines.errors import CorruptModel
from engines.quantize import Recipe, quantize
from engines.runners import RUNTIMES, onnxruntime_runner

# Every second picture calibrates, the others measure.
CALIBRATION, HELD_OUT = CALIBRATION_PICTURES[::2], CALIBRATION_PICTURES[1::2]


@dataclass(frozen=True, slots=True)
class RowAgreement:
    """How rows of INT8 relate to those of FP32 on the held-out pictures.

    Attributes:
        cosine: mean over the pictures.
        share: of the pictures, with the same largest element.
    """

    cosine: float
    share: float


def describe_vision(name: str, *outputs: TensorConfig) -> ModelConfig:
    """Returns the configuration of a convolution network that takes pictures of any size."""
    return ModelConfig(
        name=name,
        backend="openvino",
        # Such a network gains next to nothing from batches on a CPU; requests of a few pictures still fit.
        max_batch_size=4,
        preferred_batch_sizes=(1, 2, 4),
        inputs=(TensorConfig("frame", DataType.UINT8, (-1, -1, 3)),),
        outputs=outputs,
    )


def quantize_by_pictures(
    materials: Materials, exact: onnx.ModelProto, recipe: Recipe, *, output: str, cosine_bar: float
) -> tuple[onnx.ModelProto, Mapping[str, RowAgreement]]:
    """Returns an INT8 copy of `exact`, and by runtime how its `output` agrees with that of FP32.

    Raises:
        CorruptModel: a picture is not what was pinned.
        QualityTooLow: the cosine of a runtime is below the bar.
    """
    with materials.progress.step(f"quantise {materials.asset}", len(CALIBRATION)) as report:
        small = quantize(exact, ({"frame": one} for one in _pictures(materials, CALIBRATION)), recipe, report=report)
    with materials.progress.step(f"compare {materials.asset} with FP32", len(HELD_OUT)) as report:
        pictures = list(_pictures(materials, HELD_OUT))
        expected, *found = (
            np.concatenate([run({"frame": one})[output] for one in pictures])
            for run in (onnxruntime_runner(exact), *(build(small) for build in RUNTIMES.values()))
        )
        agreement = {
            runtime: RowAgreement(*compare_rows(expected, one)) for runtime, one in zip(RUNTIMES, found, strict=True)
        }
        report(len(HELD_OUT))
    check_cosine(materials.asset, min(one.cosine for one in agreement.values()), output=output, bar=cosine_bar)
    return small, agreement


def report_rows(
    agreement: Mapping[str, RowAgreement], what: str, names: Sequence[str], *, bar: float
) -> dict[str, Any]:
    """Returns what a report says of agreements by runtime.

    Args:
        agreement: as `quantize_by_pictures` found it.
        what: of whose rows it is.
        names: attributes of `RowAgreement` that mean something for these rows; in all, the worst counts.
        bar: what the cosine had to reach.
    """
    return {
        "what": f"{what}, held-out pictures",
        "pictures": len(HELD_OUT),
        **{name: round(min(getattr(one, name) for one in agreement.values()), 4) for name in names},
        **{runtime: {name: getattr(one, name) for name in names} for runtime, one in agreement.items()},
        "bar": bar,
    }


def check_cosine(asset: str, cosine: float, *, output: str, bar: float) -> None:
    """Raises `QualityTooLow` unless the mean cosine of INT8 with FP32 reaches the bar."""
    if not cosine >= bar:
        raise QualityTooLow(
            f"{asset}: the cosine of INT8 and FP32 {output} is {cosine:.4f}; expected at least {bar}; it was not"
            " published, keep more layers in float",
            asset=asset,
            measured=cosine,
            bar=bar,
        )


def _pictures(materials: Materials, members: Iterable[Member]) -> Iterable[npt.NDArray[np.uint8]]:
    for member in members:
        raw = np.frombuffer(materials.contents[member], np.uint8)
        picture = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        if picture is None:
            raise CorruptModel(f"{member.path}: not a picture that can be decoded; pull it again")
        yield np.asarray(picture, np.uint8)[None]
