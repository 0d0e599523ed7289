"""The native similarity against its slow twin in NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from engines import InvalidInput
from engines._core import small_luma, ssim

U8 = npt.NDArray[np.uint8]


def ssim_twin(a: U8, b: U8) -> float:
    """Returns Wang et al. 2004, eq. 13, averaged over every 7x7 window inside; variances with n - 1."""
    x, y = (sliding_window_view(p.astype(np.float64), (7, 7)) for p in (a, b))
    mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
    var_x, var_y = x.var((2, 3), ddof=1), y.var((2, 3), ddof=1)
    covariance = ((x * y).mean((2, 3)) - mean_x * mean_y) * 49 / 48
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    quotient = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((quotient / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def luma_twin(frame: U8) -> U8:
    """Returns the box averages of BT.601 luma, each edge at most 104, halves up."""
    height, width, _ = frame.shape
    rows, columns = -(-height // 104), -(-width // 104)
    weighted = frame.astype(np.int64) @ np.array([29, 150, 77])
    top, left = np.arange(0, height, rows), np.arange(0, width, columns)
    sums = np.add.reduceat(np.add.reduceat(weighted, top, axis=0), left, axis=1)
    count = np.diff(top, append=height)[:, None] * np.diff(left, append=width)[None, :]
    return ((sums + 128 * count) // (256 * count)).astype(np.uint8)


planes = st.tuples(st.integers(7, 60), st.integers(7, 90), st.integers(0, 2**32 - 1), st.integers(0, 255))


@settings(deadline=None, derandomize=True)
@given(planes)
def test_native_similarity_is_that_of_the_twin(case: tuple[int, int, int, int]) -> None:
    height, width, seed, amount = case
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, (height, width), dtype=np.uint8)
    b = np.clip(a + rng.integers(-amount, amount + 1, a.shape), 0, 255).astype(np.uint8)
    assert ssim(a, b) == pytest.approx(ssim_twin(a, b), abs=1e-6)
    assert ssim(a, a) == 1.0


@settings(deadline=None, derandomize=True)
@given(st.integers(7, 700), st.integers(7, 700), st.integers(0, 2**32 - 1))
def test_native_luma_is_that_of_the_twin(height: int, width: int, seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(small_luma(frame), luma_twin(frame))


def test_planes_that_cannot_be_compared_are_refused() -> None:
    plane = np.zeros((7, 7), np.uint8)
    with pytest.raises(InvalidInput, match=r"one shape, got \[7, 7\] and \[7, 8\]"):
        ssim(plane, np.zeros((7, 8), np.uint8))
    with pytest.raises(InvalidInput, match=r"at least \[7, 7\], got \[6, 7\]"):
        ssim(plane[:6], plane[:6])
    assert small_luma(np.zeros((6, 9, 3), np.uint8)) is None
