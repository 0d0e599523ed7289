"""The contact sheet: frames of the run with what was found in them, by which node, how fast."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mesh.demo.cameras import SIDE_PX
from mesh.demo.outcome import Outcome
from mesh.demo.video import U8Image, read_frames
from mesh.errors import MeshError
from services.client.draw import draw_detections

COLUMNS = 4
ROWS = 3

_GAP_PX = 6
_HEAD_PX = 56
_PAPER = (24, 24, 24)
_INK = (235, 235, 235)


def write_contact_sheet(path: Path, video: Path, samples: Sequence[Outcome], labels: Sequence[str], title: str) -> None:
    """Writes a PNG of the samples in a grid, in the order of time, below a title.

    Args:
        path: file to write; its folder exists.
        video: what the cameras looked at.
        samples: frames to show, at most `COLUMNS * ROWS`.
        labels: names of the classes.
        title: one line, ASCII.

    Raises:
        AssetMissing: the video cannot be read.
        MeshError: the file cannot be written.
    """
    frames = read_frames(video, {sample.frame_index for sample in samples})
    tiles = [_draw(frames[sample.frame_index], sample, labels) for sample in samples]
    _write(path, build_sheet(tiles, title))


def write_photo(path: Path, video: Path, sample: Outcome) -> None:
    """Writes the frame of a sample as the video has it.

    Raises:
        AssetMissing: the video cannot be read.
        MeshError: the file cannot be written.
    """
    _write(path, read_frames(video, {sample.frame_index})[sample.frame_index])


def build_sheet(tiles: Sequence[U8Image], title: str) -> U8Image:
    """Returns the tiles in a grid of `COLUMNS`, uint8[height, width, 3], below the title."""
    side = max([tile.shape[0] for tile in tiles], default=SIDE_PX)
    rows = max(1, -(-len(tiles) // COLUMNS))
    step = side + _GAP_PX
    height, width = _HEAD_PX + rows * step + _GAP_PX, COLUMNS * step + _GAP_PX
    sheet = np.full((height, width, 3), _PAPER, np.uint8)
    cv2.putText(sheet, title, (_GAP_PX * 2, 36), cv2.FONT_HERSHEY_SIMPLEX, 0.7, _INK, 1, cv2.LINE_AA)
    for number, tile in enumerate(tiles):
        y = _HEAD_PX + number // COLUMNS * step
        x = _GAP_PX + number % COLUMNS * step
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet


def _write(path: Path, picture: U8Image) -> None:
    good, file = cv2.imencode(path.suffix, picture)
    assert good, f"an image in memory can be written as {path.suffix}"
    try:
        path.write_bytes(file.tobytes())
    except OSError as error:
        raise MeshError(f"cannot write {path}: {error.strerror}; give another --out") from error


def _draw(frame: U8Image, sample: Outcome, labels: Sequence[str]) -> U8Image:
    side = min(SIDE_PX, *frame.shape[:2])
    seen = frame[sample.y : sample.y + side, sample.x : sample.x + side]
    found = np.array(sample.detections, np.float32).reshape(-1, 6)
    caption = f"agent {sample.agent} - {sample.node} - {sample.elapsed_ms:.0f} ms"
    return draw_detections(seen, found[:, :4], found[:, 4], found[:, 5].astype(np.int32), labels, caption=caption)
