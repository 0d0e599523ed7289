"""The agents' cameras: a window of fixed size that glides over the video, each on its own path."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

SIDE_PX = 416
"""Side of the square that a camera sees; the detector's own size, so nothing is lost in scaling."""

_PERIOD_S = (11.0, 29.0)  # there and back; slow enough for a drone


@dataclass(frozen=True, slots=True)
class Camera:
    """The path of one camera: a harmonic motion along each axis.

    Attributes:
        period_x_s, period_y_s: time for there and back.
        phase_x, phase_y: where on its way it is at time 0, in turns.
    """

    period_x_s: float
    period_y_s: float
    phase_x: float
    phase_y: float

    def place(self, at_s: float, width: int, height: int, side: int) -> tuple[int, int]:
        """Returns the left upper corner of the window at a time.

        Args:
            at_s: seconds since the start.
            width: width of the video's frames, at least `side`.
            height: height of the video's frames, at least `side`.
            side: side of the window in pixels.
        """
        x = _swing(at_s / self.period_x_s + self.phase_x) * (width - side)
        y = _swing(at_s / self.period_y_s + self.phase_y) * (height - side)
        return round(x), round(y)


def build_camera(seed: int, agent: int) -> Camera:
    """Returns the camera of an agent; the same seed and agent always give the same path."""
    rng = random.Random(f"camera {seed} {agent}")
    return Camera(rng.uniform(*_PERIOD_S), rng.uniform(*_PERIOD_S), rng.random(), rng.random())


def _swing(turns: float) -> float:
    """Returns a value that swings between 0 and 1, smooth at its ends."""
    return 0.5 - 0.5 * math.cos(2 * math.pi * turns)
