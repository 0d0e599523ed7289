"""Tests of how agreement between models is measured."""

import numpy as np
import pytest

from engines.agreement import Detections, compare_boxes, compare_rows, suppress


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


PERSON = (0.0, 0.0, 10.0, 20.0, 0.9, 0)
SHIFTED = (1.0, 1.0, 11.0, 21.0, 0.8, 0)
CAR = (0.0, 0.0, 10.0, 20.0, 0.7, 2)


def test_same_boxes_agree_wholly() -> None:
    found = compare_boxes([(detections(PERSON, CAR), detections(PERSON, CAR))])
    assert (found.matched, found.missed, found.extra, found.frames, found.share) == (2, 0, 0, 1, 1.0)


def test_other_classes_and_other_places_do_not_match() -> None:
    found = compare_boxes([(detections(PERSON), detections(CAR)), (detections(PERSON), detections())])
    assert (found.matched, found.missed, found.extra) == (0, 2, 1)


def test_each_reference_box_is_matched_once() -> None:
    found = compare_boxes([(detections(PERSON), detections(PERSON, SHIFTED))])
    assert (found.matched, found.missed, found.extra) == (1, 0, 1)


def test_nothing_compared_is_no_agreement() -> None:
    assert compare_boxes([]).share == 0.0


def test_suppression_keeps_the_best_of_overlapping_boxes_of_a_class() -> None:
    boxes = np.array([PERSON[:4], SHIFTED[:4], CAR[:4], (50, 50, 60, 60)], np.float32)
    scores = np.zeros((4, 3), np.float32)
    scores[0, 0], scores[1, 0], scores[2, 2], scores[3, 1] = 0.8, 0.9, 0.5, 0.2
    found = suppress(boxes, scores, score_threshold=0.3, iou_threshold=0.5)
    assert found.classes.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.boxes[0].tolist() == list(SHIFTED[:4])
    assert len(suppress(boxes, scores, score_threshold=0.1, iou_threshold=1.0, limit=2).scores) == 2


def test_rows_agree_by_direction_and_largest_element() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 1.0]])
    cosine, same = compare_rows(rows, 2 * rows)
    assert cosine == pytest.approx(1.0)
    assert same == 1.0
    assert compare_rows(rows, rows[:, ::-1])[1] == 0.0
