"""The contact sheet shows frames of every node, cut and drawn as they were answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from mesh.demo.outcome import Outcome, Verdict
from mesh.demo.picture import COLUMNS, build_sheet, write_contact_sheet, write_photo
from mesh.demo.samples import choose_samples
from mesh.demo.video import Video, read_frames
from mesh.errors import AssetMissing, MeshError

_FRAMES = 12


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Returns a video of 480 x 432 whose frame n has the grey level 20 n."""
    path = tmp_path / "grey.avi"
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), fourcc, 10.0, (480, 432))
    for index in range(_FRAMES):
        writer.write(np.full((432, 480, 3), 20 * index, np.uint8))
    writer.release()
    return path


def build_outcome(due_s: float, node: str, agent: int = 0, found: int = 1) -> Outcome:
    return Outcome(
        agent=agent,
        sequence=0,
        due_s=due_s,
        lag_ms=0.0,
        elapsed_ms=12.0,
        verdict=Verdict.ANSWERED,
        node=node,
        frame_index=int(due_s),
        x=10,
        y=5,
        detections=((100.0, 100.0, 200.0, 300.0, 0.9, 0),) * found,
    )


def test_the_video_plays_in_a_loop(video: Path) -> None:
    with Video(video) as playing:
        assert (playing.width, playing.height, playing.index) == (480, 432, 0)
        for _ in range(_FRAMES):
            playing.advance()
        assert playing.index == 0
        assert repr(playing) == "<Video grey.avi 480x432 index=0>"


def test_frames_are_read_by_their_number(video: Path) -> None:
    frames = read_frames(video, {2, 7, 99})
    assert sorted(frames) == [2, 7]
    assert abs(int(frames[7].mean()) - 140) <= 3


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vtest.avi"
    with pytest.raises(AssetMissing, match="found nothing at"):
        Video(path)
    path.write_text("not a video")
    with pytest.raises(AssetMissing, match="found a file that is no video"):
        Video(path)


def test_the_sheet_is_a_picture_with_boxes(video: Path, tmp_path: Path) -> None:
    samples = [build_outcome(n, "edge-1") for n in range(5)]
    path = tmp_path / "report.png"
    write_contact_sheet(path, video, samples, ["person"], "title")
    sheet = cv2.imread(str(path))
    assert sheet is not None
    assert sheet.shape[1] > COLUMNS * 416
    assert len(np.unique(sheet.astype(np.int32) @ (1, 256, 256**2))) > 5


def test_the_photo_is_a_frame_as_the_video_has_it(video: Path, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    write_photo(path, video, build_outcome(7, "edge-1"))
    photo = cv2.imread(str(path))
    assert photo is not None
    assert photo.shape == (432, 480, 3)
    assert abs(int(photo.mean()) - 140) <= 3


def test_a_sheet_of_nothing_is_still_a_sheet() -> None:
    assert build_sheet([], "nothing was answered").ndim == 3


def test_a_folder_that_cannot_be_written_is_named(video: Path, tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="give another --out"):
        write_contact_sheet(tmp_path / "no" / "such.png", video, [], [], "title")


def test_samples_show_every_node_and_many_agents() -> None:
    outcomes = [build_outcome(n / 10, "edge-1", agent=n % 6) for n in range(200)]
    outcomes += [build_outcome(n, "cloud-1", agent=2) for n in range(20)]
    chosen = choose_samples(outcomes, 12)
    assert len(chosen) == 12
    assert set(Counter(o.node for o in chosen)) == {"edge-1", "cloud-1"}
    assert len({o.agent for o in chosen}) >= 4
    assert [o.due_s for o in chosen] == sorted(o.due_s for o in chosen)


def test_samples_prefer_frames_with_detections() -> None:
    outcomes = [build_outcome(n, "edge-1", found=n % 2) for n in range(20)]
    assert all(o.detections for o in choose_samples(outcomes, 6))
    empty = [build_outcome(n, "edge-1", found=0) for n in range(3)]
    assert len(choose_samples(empty, 6)) == 3
    assert choose_samples([], 6) == []
