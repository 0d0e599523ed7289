"""Cameras stay inside the video, move smoothly and repeat from their seed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.demo.cameras import SIDE_PX, build_camera

_WIDTH, _HEIGHT = 768, 576


@settings(deadline=None)
@given(st.integers(), st.integers(0, 999), st.floats(0, 3600))
def test_the_window_is_inside_the_frame(seed: int, agent: int, at_s: float) -> None:
    x, y = build_camera(seed, agent).place(at_s, _WIDTH, _HEIGHT, SIDE_PX)
    assert 0 <= x <= _WIDTH - SIDE_PX
    assert 0 <= y <= _HEIGHT - SIDE_PX


@settings(deadline=None)
@given(st.integers(), st.integers(0, 999), st.floats(0, 3600))
def test_the_window_glides(seed: int, agent: int, at_s: float) -> None:
    camera = build_camera(seed, agent)
    before = camera.place(at_s, _WIDTH, _HEIGHT, SIDE_PX)
    after = camera.place(at_s + 0.1, _WIDTH, _HEIGHT, SIDE_PX)
    # Half the span times 2 pi, over the shortest period, times 0.1 s; and rounding.
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= 12


def test_the_same_seed_gives_the_same_path_and_agents_differ() -> None:
    assert build_camera(7, 3) == build_camera(7, 3)
    assert len({build_camera(7, agent) for agent in range(50)}) == 50


def test_a_video_no_larger_than_the_window_is_seen_whole() -> None:
    assert build_camera(0, 0).place(5.0, SIDE_PX, SIDE_PX, SIDE_PX) == (0, 0)
