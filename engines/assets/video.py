"""Decodes frames of videos that are held in memory."""

import tempfile
from collections.abc import Collection, Iterator

import cv2
import numpy as np
import numpy.typing as npt

from engines.errors import CorruptModel


def read_frames(video: bytes, wanted: Collection[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """Yields the wanted frames, counted from 0, as uint8[height, width, 3] in blue, green, red.

    Raises:
        CorruptModel: the video ends before the last wanted frame.
    """
    with tempfile.NamedTemporaryFile(suffix=".avi") as file:
        file.write(video)
        file.flush()
        capture = cv2.VideoCapture(file.name)
        try:
            for at in range(max(wanted, default=-1) + 1):
                if not capture.grab():
                    raise CorruptModel(
                        f"the video ends after {at} frames; expected more than {max(wanted)}; pull it again"
                    )
                if at in wanted:
                    _, frame = capture.retrieve()
                    yield np.asarray(frame, np.uint8)
        finally:
            capture.release()
