"""The video under all cameras, decoded one frame ahead of its time and never held as a whole."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
import numpy.typing as npt

from mesh.errors import AssetMissing

U8Image = npt.NDArray[np.uint8]


class Video:
    """Plays a file in a loop; holds one frame. Decoding one of 768 x 576 takes under 1 ms.

    Attributes:
        frame: uint8[height, width, 3] BGR, the current frame. It is replaced, never changed.
        index: its number in the file, from 0.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file and decodes its first frame.

        Raises:
            AssetMissing: the file is not there or is no video.
        """
        self._path = path
        # One decoding thread: the cores belong to the engines.
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        self.index = -1
        self.frame: U8Image = np.empty((0, 0, 3), np.uint8)
        if not self._capture.isOpened() or not self._read():
            found = "a file that is no video" if path.exists() else "nothing"
            raise AssetMissing(
                f"found {found} at {path}; expected a video such as vtest.avi; "
                "fetch it with `starling models pull vtest`"
            )
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or 10.0

    @property
    def width(self) -> int:
        """Width of the frames in pixels."""
        return int(self.frame.shape[1])

    @property
    def height(self) -> int:
        """Height of the frames in pixels."""
        return int(self.frame.shape[0])

    def advance(self) -> None:
        """Replaces the frame by the next one, after the last one by the first."""
        if not self._read():
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            self.index = -1
            self._read()

    def close(self) -> None:
        """Closes the file; the current frame stays."""
        self._capture.release()

    def _read(self) -> bool:
        good, frame = self._capture.read()
        if good:
            self.frame = np.asarray(frame, np.uint8)
            self.index += 1
        return bool(good)

    def __enter__(self) -> Self:
        """Returns the open video."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self.close()

    def __repr__(self) -> str:
        """Returns the file's name, the size and the position."""
        return f"<Video {self._path.name} {self.width}x{self.height} index={self.index}>"


def read_frames(path: Path, wanted: Collection[int]) -> dict[int, U8Image]:
    """Returns the wanted frames by their number; those beyond the end of the file are absent.

    Raises:
        AssetMissing: the file is not there or is no video.
    """
    frames: dict[int, U8Image] = {}
    with Video(path) as video:
        for _ in range(max(wanted, default=-1) + 1):
            if video.index in wanted:
                frames[video.index] = video.frame
            before = video.index
            video.advance()
            if video.index <= before:
                break
    return frames
