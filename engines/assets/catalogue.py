"""Every asset that can be pulled, one entry each: what it is made from, its licence, and the code that makes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from engines.assets.classifier import make_efficientnet
from engines.assets.detector import make_nanodet
from engines.assets.embedder import make_mobilenet, make_mobilenet_int8
from engines.assets.errors import AssetNotFound, AssetPlanned
from engines.assets.making import Recipe
from engines.assets.packages import (
    CALIBRATION_PICTURES,
    COCO_NAMES,
    EFFICIENTNET_WEIGHTS,
    IMAGENET_NAMES,
    MOBILENET_WEIGHTS,
    NANODET_TOPOLOGY,
    NANODET_WEIGHTS,
    PEDESTRIAN_VIDEO,
    RAPTOR_CHECKPOINT,
    SILERO_GRAPH,
    SPEECH,
    Member,
)
from engines.assets.raptor import make_raptor
from engines.assets.silero import make_silero


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing to pull.

    Attributes:
        name: what people type.
        summary: one line for listings.
        license: SPDX expression of what is published.
        members: files of packages that it is made from.
        recipe: makes a model from them; None means that the single member is placed as it is.
        revision: raised when the recipe's result changes, so that older results are made again.
    """

    name: str
    summary: str
    license: str
    members: tuple[Member, ...]
    recipe: Recipe | None = None
    revision: int = 1


_DETECTOR = (NANODET_TOPOLOGY, NANODET_WEIGHTS, COCO_NAMES, PEDESTRIAN_VIDEO)

CATALOGUE: Mapping[str, Asset] = MappingProxyType(
    {
        asset.name: asset
        for asset in (
            Asset(
                "nanodet",
                "finds 80 kinds of things in camera frames; INT8, network of 416x416",
                "Apache-2.0",
                _DETECTOR,
                partial(make_nanodet, size=416),
            ),
            Asset(
                "nanodet-small",
                "the same detector at a quarter of the work; INT8, network of 224x224",
                "Apache-2.0",
                _DETECTOR,
                partial(make_nanodet, size=224, keep_heads=True, larger_size=416),
            ),
            Asset(
                "efficientnet-lite0",
                "names the main thing in a frame, out of 1000; network of 224x224",
                "Apache-2.0",
                (EFFICIENTNET_WEIGHTS, IMAGENET_NAMES, *CALIBRATION_PICTURES),
                make_efficientnet,
            ),
            Asset(
                "mobilenetv2-embed",
                "turns a frame into 1280 numbers that are alike for alike pictures; FP32",
                "MIT",
                (MOBILENET_WEIGHTS,),
                make_mobilenet,
            ),
            Asset(
                "mobilenetv2-int8",
                "the same embedding in INT8: MobileNetV2 without its classifier",
                "MIT",
                (MOBILENET_WEIGHTS, *CALIBRATION_PICTURES),
                make_mobilenet_int8,
            ),
            Asset(
                "raptor",
                "flies a quadrotor: 22 observations and a state in, 4 motors and a state out; FP32",
                "MIT",
                (RAPTOR_CHECKPOINT,),
                make_raptor,
            ),
            Asset(
                "silero-vad",
                "hears whether somebody speaks: 32 ms of sound a step, its state is kept by the node; FP32",
                "MIT",
                (SILERO_GRAPH, *SPEECH),
                make_silero,
            ),
            Asset(
                "vtest",
                "pedestrians and cars from above, 795 frames of 768x576",
                "Apache-2.0 AND BSD-3-Clause",
                (PEDESTRIAN_VIDEO,),
            ),
        )
    }
)

# Known and researched, but without a recipe yet.
PLANNED = ("ga3c-cadrl", "minilm")


def find_asset(name: str, catalogue: Mapping[str, Asset] = CATALOGUE) -> Asset:
    """Returns the asset of this name.

    Raises:
        AssetPlanned: it has no recipe yet.
        AssetNotFound: there is no such asset.
    """
    if name in catalogue:
        return catalogue[name]
    works = ", ".join(catalogue)
    if name in PLANNED:
        raise AssetPlanned(f"asset {name!r} cannot be pulled yet; these can: {works}", asset=name)
    raise AssetNotFound(
        f"there is no asset {name!r}; expected one of {works}; see `starling models pull --help`",
        asset=name,
    )
