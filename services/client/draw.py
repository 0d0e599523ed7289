"""Pictures for people: boxes, labels and a caption on a frame. Needs OpenCV."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

U8Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GOLDEN_RATIO = 0.618034  # steps of this size keep the hues of neighbouring classes far apart
_CAPTION_COLOUR: Colour = (32, 32, 32)
_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes in pixels that look alike on frames of every size."""

    line: int
    font_scale: float
    font_line: int
    margin: int
    ceiling: int = 0  # nothing but the caption goes above this row

    @classmethod
    def fit(cls, frame: U8Image) -> _Pen:
        side = min(frame.shape[:2])
        return cls(
            line=max(1, round(side / 240)),
            font_scale=max(0.35, side / 1200),
            font_line=max(1, round(side / 500)),
            margin=max(2, side // 160),
        )


def draw_detections(
    frame: U8Image,
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    classes: npt.ArrayLike,
    labels: Sequence[str],
    *,
    min_score: float = 0.35,
    caption: str = "",
) -> U8Image:
    """Returns a copy of a frame with a box and a label around each detection.

    Args:
        frame: uint8[H, W, 3] BGR. Not changed.
        boxes: float[N, 4], x0 y0 x1 y1 in pixels of `frame`. Boxes outside it are clipped.
        scores: float[N]. Those below `min_score`, such as padding, are not drawn.
        classes: int[N], indices into `labels`; the number stands in where there is no label.
        labels: one name per class.
        min_score: lowest score that is drawn.
        caption: text on a bar across the top; none when empty.

    Raises:
        ValueError: the frame is not an image, or the arrays do not belong together.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
        raise ValueError(f"found {frame.dtype}{list(frame.shape)}; expected a uint8[H, W, 3] frame")
    corners, score, kinds = np.asarray(boxes), np.asarray(scores), np.asarray(classes)
    if corners.ndim != 2 or corners.shape[1] != 4 or {len(score), len(kinds)} != {len(corners)}:
        raise ValueError(
            f"found boxes{list(corners.shape)}, scores{list(score.shape)}, "
            f"classes{list(kinds.shape)}; expected [N, 4], [N], [N]"
        )
    canvas = np.ascontiguousarray(frame).copy()
    pen = _Pen.fit(canvas)
    if caption:
        pen = replace(pen, ceiling=_draw_caption(canvas, caption, pen))
    for index in np.argsort(score, kind="stable"):  # the surest ones end up on top
        if score[index] >= min_score and np.isfinite(corners[index]).all():
            kind = int(kinds[index])
            name = labels[kind] if 0 <= kind < len(labels) else str(kind)
            text = f"{name} {round(100 * float(score[index]))}%"
            _draw_box(canvas, corners[index], text, get_class_colour(kind), pen)
    return canvas


def get_class_colour(index: int) -> Colour:
    """Returns a bright BGR colour; neighbouring indices get colours that are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN_RATIO % 1.0, 0.75, 1.0)
    return round(255 * blue), round(255 * green), round(255 * red)


def _draw_box(canvas: U8Image, corners: npt.NDArray[np.generic], text: str, colour: Colour, pen: _Pen) -> None:
    height, width = canvas.shape[:2]
    limits = np.array([width, height, width, height]) - 1
    x0, y0, x1, y1 = (int(v) for v in np.clip(np.rint(corners), (0, pen.ceiling, 0, 0), limits))
    if x1 <= x0 or y1 <= y0:
        return
    cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, pen.line)
    text_width, text_height = _measure(text, pen)
    top = y0 - text_height - 2 * pen.margin
    top = top if top >= pen.ceiling else min(y0, height - text_height - 2 * pen.margin)
    left = max(0, min(x0, width - text_width - 2 * pen.margin))
    bottom = top + text_height + 2 * pen.margin
    cv2.rectangle(canvas, (left, top), (left + text_width + 2 * pen.margin, bottom), colour, cv2.FILLED)
    _write(canvas, text, (left + pen.margin, bottom - pen.margin), _BLACK, pen)


def _draw_caption(canvas: U8Image, caption: str, pen: _Pen) -> int:
    """Draws the caption and returns the row below its bar."""
    _, text_height = _measure(caption, pen)
    bottom = text_height + 4 * pen.margin
    cv2.rectangle(canvas, (0, 0), (canvas.shape[1], bottom), _CAPTION_COLOUR, cv2.FILLED)
    _write(canvas, caption, (2 * pen.margin, bottom - 2 * pen.margin), _WHITE, pen)
    return bottom + 1


def _measure(text: str, pen: _Pen) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(_printable(text), _FONT, pen.font_scale, pen.font_line)
    return width, height


def _write(canvas: U8Image, text: str, place: tuple[int, int], colour: Colour, pen: _Pen) -> None:
    cv2.putText(
        canvas,
        _printable(text),
        place,
        _FONT,
        pen.font_scale,
        colour,
        pen.font_line,
        cv2.LINE_AA,
    )


def _printable(text: str) -> str:
    """Returns the text with what OpenCV's fonts cannot draw replaced by `?`."""
    return text.encode("ascii", "replace").decode("ascii")
