"""Measures how well two versions of a model agree, which is what decides whether an INT8 model is published.

Agreement is not accuracy: the FP32 model is the reference here, right or wrong.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes float32[n, 4] (x0, y0, x1, y1), scores float32[n] and classes int[n], best first."""

    boxes: F32
    scores: F32
    classes: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class BoxAgreement:
    """How a candidate's boxes relate to a reference's, counted over a set of frames.

    Attributes:
        matched: boxes of the reference that the candidate has, too.
        missed: boxes of the reference that the candidate lacks.
        extra: boxes that only the candidate has.
        frames: how many frames were compared.
    """

    matched: int
    missed: int
    extra: int
    frames: int

    @property
    def share(self) -> float:
        """Returns the matched share of the reference's boxes; 1 when there are none."""
        return self.matched / max(1, self.matched + self.missed) if self.frames else 0.0


def iou(box: F32, boxes: F32) -> F32:
    """Returns the intersection over union of `box` [4] with each of `boxes` [n, 4].

    >>> iou(np.float32([0, 0, 2, 2]), np.float32([[0, 0, 2, 2], [1, 0, 3, 2]])).round(3).tolist()
    [1.0, 0.3330000042915344]
    """
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    result: F32 = (shared / np.maximum(areas - shared, 1e-9)).astype(np.float32)
    return result


def suppress(
    boxes: F32,
    scores: F32,
    *,
    score_threshold: float,
    iou_threshold: float,
    limit: int = 100,
) -> Detections:
    """Returns the detections of one frame: the slow twin of the native `nms` step.

    Each anchor counts for its best class. Within a class, going from the best score down, a box is dropped when it
    overlaps a kept one by more than `iou_threshold`.

    Args:
        boxes: float32[anchors, 4].
        scores: float32[anchors, classes].
        score_threshold: anchors below this are not considered.
        iou_threshold: overlap, 0 to 1.
        limit: most detections returned, the best ones.
    """
    best = scores.max(1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] >= score_threshold]
    classes = scores.argmax(1)
    kept: list[int] = []
    for at in order:
        rivals = [one for one in kept if classes[one] == classes[at]]
        if not rivals or iou(boxes[at], boxes[rivals]).max() <= iou_threshold:
            kept.append(int(at))
        if len(kept) == limit:
            break
    return Detections(boxes[kept], best[kept], classes[kept].astype(np.int32))


def compare_boxes(pairs: Iterable[tuple[Detections, Detections]], iou_threshold: float = 0.5) -> BoxAgreement:
    """Returns the agreement over (reference, candidate) pairs, one pair per frame.

    A candidate's box matches the not yet matched box of the reference, of the same class, that it overlaps most, if
    it does so by at least `iou_threshold`.
    """
    matched = missed = extra = frames = 0
    for reference, candidate in pairs:
        frames += 1
        free = np.ones(len(reference.scores), bool)
        for box, kind in zip(candidate.boxes, candidate.classes, strict=True):
            overlap = iou(box, reference.boxes) * (free & (reference.classes == kind))
            at = int(overlap.argmax()) if len(overlap) else -1
            if at >= 0 and overlap[at] >= iou_threshold:
                free[at] = False
                matched += 1
            else:
                extra += 1
        missed += int(free.sum())
    return BoxAgreement(matched, missed, extra, frames)


def compare_rows(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> tuple[float, float]:
    """Returns the mean cosine of matching rows and the share of rows with the same largest element.

    Args:
        reference: float[rows, columns].
        candidate: float[rows, columns].
    """
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(candidate, axis=1)
    cosines = (reference * candidate).sum(1) / np.maximum(norms, 1e-12)
    same = reference.argmax(1) == candidate.argmax(1)
    return float(cosines.mean()), float(same.mean())
