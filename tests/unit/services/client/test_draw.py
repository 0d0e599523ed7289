"""Boxes on frames: right place, padding left out, the given frame untouched."""

import numpy as np
import pytest

from services.client.draw import draw_detections, get_class_colour

FRAME = np.zeros((120, 160, 3), np.uint8)
BOX = np.array([[40.0, 50.0, 100.0, 110.0]], np.float32)


def draw(boxes: object = BOX, scores: object = (0.9,), classes: object = (0,), **more: object):  # type: ignore[no-untyped-def]
    return draw_detections(FRAME, boxes, scores, classes, ["person"], **more)  # type: ignore[arg-type]


def test_a_box_is_drawn_on_its_edges_in_the_colour_of_its_class() -> None:
    picture = draw()
    assert picture.shape == FRAME.shape
    assert picture.dtype == np.uint8
    for y, x in ((50, 70), (110, 70), (80, 40), (80, 100)):
        assert tuple(picture[y, x]) == get_class_colour(0)
    assert not picture[80, 70].any()
    assert not FRAME.any()


def test_what_is_below_the_score_is_not_drawn() -> None:
    assert not draw(scores=(0.34,)).any()
    assert draw(scores=(0.34,), min_score=0.3).any()


def test_padding_is_not_drawn() -> None:
    padded = np.zeros((100, 4), np.float32)
    padded[0] = BOX
    scores = np.zeros(100, np.float32)
    scores[0] = 0.9
    assert np.array_equal(draw(padded, scores, np.zeros(100, np.int32)), draw())


@pytest.mark.parametrize(
    "box",
    [(50, 50, 50, 80), (90, 50, 40, 80), (np.nan, 0, 10, 10), (0, 0, np.inf, 9), (500, 5, 600, 9)],
)
def test_boxes_without_an_area_inside_the_frame_are_passed_over(box: tuple[float, ...]) -> None:
    assert not draw([box]).any()


def test_boxes_over_the_edge_are_clipped() -> None:
    picture = draw([(-1e9, -50.0, 1e9, 1e9)])
    assert tuple(picture[60, 0]) == get_class_colour(0)
    assert tuple(picture[119, 80]) == get_class_colour(0)


def test_a_class_without_a_label_and_no_detection_at_all_are_fine() -> None:
    assert draw(classes=(7,)).any()
    assert draw(classes=(-1,)).any()
    assert not draw(np.zeros((0, 4)), (), ()).any()


def test_a_caption_is_a_bar_across_the_top() -> None:
    picture = draw(np.zeros((0, 4)), (), (), caption="edge-0 · 21 ms")
    assert picture[0].all()
    assert not picture[60].any()
    covered = draw([(0, 0, 150, 110)], caption="edge-0")
    assert np.array_equal(covered[0], draw(np.zeros((0, 4)), (), (), caption="edge-0")[0])


def test_a_read_only_or_strided_frame_is_drawn_on_too() -> None:
    frame = np.zeros((240, 320, 3), np.uint8)[::2, ::2]
    frame.flags.writeable = False
    assert draw_detections(frame, BOX, [0.9], [0], []).any()


@pytest.mark.parametrize("frame", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_a_frame_that_is_none_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8\[H, W, 3\] frame"):
        draw_detections(frame, BOX, [0.9], [0], [])


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[N, 4\], \[N\], \[N\]"):
        draw(scores=(0.9, 0.8))
    with pytest.raises(ValueError, match=r"expected \[N, 4\], \[N\], \[N\]"):
        draw(boxes=[(1, 2, 3)])
