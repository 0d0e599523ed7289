"""What the frame cache saves on a real video, and what it costs in agreement of the boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt

from mesh.assets import get_repository, get_video
from mesh.bench.result import Result, Row
from mesh.bench.rig import Rig
from mesh.demo.video import Video
from services.client import Client, Prediction, SimilarFrame

_MODEL = "nanodet"
_FRAMES = 300
_SIDE = 416
_LEFT, _TOP = 176, 80  # a fixed camera on the busiest part of the picture
_THRESHOLDS = (0.99, 0.98, 0.97, 0.96, 0.95, 0.93, 0.9)
_STALENESS_S = 10.0
_SAME_IOU = 0.5

Frame = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Detections of one frame: xyxy float32[n, 4] in pixels, and their classes."""

    boxes: Floats
    classes: npt.NDArray[np.int32]


async def run(rig: Rig) -> Result:
    """Measures how often the frame cache answers and how well its boxes agree with fresh ones, by threshold."""
    node = await rig.start_node(get_repository(os.environ), _MODEL)
    frames = _read_frames()
    rows: list[Row] = []
    with Client(node.facts["grpc"]) as client:
        fresh = [client.predict(_MODEL, {"frame": frame}, deadline_s=5) for frame in frames]
        truth = [_boxes(prediction) for prediction in fresh]
        for threshold in _THRESHOLDS:
            policy = SimilarFrame(_STALENESS_S, threshold)
            stream = f"threshold-{threshold}"
            answers = [
                client.predict(_MODEL, {"frame": frame}, deadline_s=5, stream_id=stream, sequence=i, cache=policy)
                for i, frame in enumerate(frames)
            ]
            cached = [i for i, answer in enumerate(answers) if answer.from_cache]
            agreement = _agreement([_boxes(answers[i]) for i in cached], [truth[i] for i in cached])
            rows.append(
                {
                    "similarity >=": threshold,
                    "answered from the cache": len(cached) / len(frames),
                    "agreement of their boxes": agreement,
                    "node us, cached": median(answers[i].total_us for i in cached) if cached else 0,
                    "node us, computed": median(answer.total_us for answer in fresh),
                }
            )
    return Result(
        name="frame_cache",
        rows=rows,
        bars=(),
        notes=(
            f"{_FRAMES} frames of the pedestrian video, 10 a second, a fixed {_SIDE}x{_SIDE} crop; {_MODEL};",
            "agreement: 2 x matched / (cached + fresh) boxes, same class, IoU >= 0.5, of cached frames;",
            "played faster than it was filmed, so an answer may be older in the film than max_staleness would allow",
        ),
    )


def _read_frames() -> list[Frame]:
    video = Video(get_video(os.environ).path)
    frames = []
    for _ in range(_FRAMES):
        crop = video.frame[_TOP : _TOP + _SIDE, _LEFT : _LEFT + _SIDE]
        frames.append(np.ascontiguousarray(crop)[None])
        video.advance()
    video.close()
    return frames


def _boxes(prediction: Prediction) -> Boxes:
    count = int(np.asarray(prediction["count"]).reshape(-1)[0])
    boxes = np.asarray(prediction["boxes"][0, :count], np.float32)
    return Boxes(boxes, np.asarray(prediction["classes"][0, :count], np.int32))


def _agreement(cached: Sequence[Boxes], fresh: Sequence[Boxes]) -> float:
    """Returns twice the matched boxes over all boxes; 1 when there are none at all."""
    total = sum(len(a.boxes) + len(b.boxes) for a, b in zip(cached, fresh, strict=True))
    matched = sum(_matches(a, b) for a, b in zip(cached, fresh, strict=True))
    return 2 * matched / total if total else 1.0


def _matches(a: Boxes, b: Boxes) -> int:
    """Returns how many boxes find a partner of their class, each partner once, best overlap first."""
    if not len(a.boxes) or not len(b.boxes):
        return 0
    low = np.maximum(a.boxes[:, None, :2], b.boxes[None, :, :2])
    high = np.minimum(a.boxes[:, None, 2:], b.boxes[None, :, 2:])
    inner = np.prod(np.clip(high - low, 0, None), axis=2)
    union = _areas(a)[:, None] + _areas(b)[None, :] - inner
    overlap = np.where(a.classes[:, None] == b.classes[None, :], inner / np.maximum(union, 1e-6), 0)
    count = 0
    while overlap.max() >= _SAME_IOU:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i, :] = 0
        overlap[:, j] = 0
        count += 1
    return count


def _areas(a: Boxes) -> Floats:
    return np.asarray(np.prod(a.boxes[:, 2:] - a.boxes[:, :2], axis=1), np.float32)
