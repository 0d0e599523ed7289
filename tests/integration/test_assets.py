"""Tests with the real assets, from the cache; the first run fetches them from the registries."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from engines import Postprocess
from engines.agreement import suppress
from engines.assets import CATALOGUE, Cache, default_root, pull
from engines.assets.packages import CALIBRATION_PICTURES, PEDESTRIAN_VIDEO
from engines.assets.progress import SilentProgress
from engines.assets.pull import verify
from engines.assets.registries import RegistryClients
from engines.assets.video import read_frames
from engines.runners import RUNTIMES, Runner, openvino_runner

Frame = npt.NDArray[np.uint8]


@pytest.fixture(scope="session")
def cache() -> Cache:
    found = Cache(default_root(os.environ))
    for _ in pull(CATALOGUE, found, RegistryClients(), SilentProgress()):
        pass
    return found


@pytest.fixture(scope="session")
def frame(cache: Cache) -> Frame:
    (found,) = read_frames((cache.data / "vtest.avi").read_bytes(), [600])
    return found


def load(cache: Cache, name: str) -> onnx.ModelProto:
    return onnx.load(cache.repository.find(name).model_path)


def people(run: Runner, frame: Frame) -> list[npt.NDArray[np.float32]]:
    outputs = run({"frame": frame[None]})
    found = suppress(outputs["boxes"][0], outputs["scores"][0], score_threshold=0.35, iou_threshold=0.5)
    return list(found.boxes[found.classes == 0])


def test_everything_in_the_catalogue_is_there_and_intact(cache: Cache) -> None:
    assert {name for name, _, error in verify(cache.repository) if error is None} >= {
        name for name, asset in CATALOGUE.items() if asset.recipe is not None
    }
    assert all(not done.fresh for done in pull(CATALOGUE, cache, RegistryClients(), SilentProgress()))


def test_video_is_the_pinned_one(cache: Cache) -> None:
    assert cache.read(PEDESTRIAN_VIDEO) == (cache.data / "vtest.avi").read_bytes()
    frames = list(read_frames((cache.data / "vtest.avi").read_bytes(), [0, 794]))
    assert [one.shape for one in frames] == [(576, 768, 3)] * 2


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("name", "least"), [("nanodet", 6), ("nanodet-small", 5)])
def test_boxes_sit_on_the_people(cache: Cache, frame: Frame, name: str, least: int, runtime: str) -> None:
    """Six people walk in this frame; these points were read off the picture, on their chests."""
    chests = [(197, 178), (581, 245), (686, 257), (471, 350), (656, 357), (303, 485)]
    boxes = people(RUNTIMES[runtime](load(cache, name)), frame)
    hit = sum(any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in boxes) for x, y in chests)
    assert hit >= least
    assert len(boxes) <= len(chests) + 2


@pytest.mark.parametrize("name", ["nanodet", "nanodet-small"])
def test_frames_of_any_size_and_batches_of_them_are_answered(cache: Cache, frame: Frame, name: str) -> None:
    run = openvino_runner(load(cache, name))
    for height, width in ((64, 64), (576, 768), (1080, 1920)):
        assert run({"frame": np.zeros((1, height, width, 3), np.uint8)})["boxes"].shape[2] == 4
    crops = np.stack([frame[:480, :640], frame[90:570, 120:760], np.zeros((480, 640, 3), np.uint8)])
    together = run({"frame": crops})
    for at, crop in enumerate(crops):
        alone = run({"frame": crop[None]})
        np.testing.assert_allclose(together["scores"][at], alone["scores"][0], atol=1e-3)
        np.testing.assert_allclose(together["boxes"][at], alone["boxes"][0], atol=0.5)


@pytest.mark.parametrize("name", ["nanodet", "nanodet-small", "efficientnet-lite0", "mobilenetv2-int8"])
def test_manifests_record_agreement_above_the_bar(cache: Cache, name: str) -> None:
    report = cache.repository.find(name).manifest.report
    agreement: Mapping[str, Any] = report["agreement"]
    assert report["precision"] == "int8"
    assert agreement["cosine" if "cosine" in agreement else "share"] >= agreement["bar"]
    assert set(agreement) >= set(RUNTIMES)


def test_detector_is_described_for_agents(cache: Cache) -> None:
    config = cache.repository.config("nanodet")
    assert config.postprocess is Postprocess.NMS
    assert [(one.name, one.dims) for one in config.outputs] == [
        ("boxes", (100, 4)),
        ("scores", (100,)),
        ("classes", (100,)),
        ("count", ()),
    ]
    labels = cache.repository.labels("nanodet")["classes"]
    assert (len(labels), labels[0]) == (80, "person")


def picture(cache: Cache, name: str) -> Frame:
    import cv2

    member = next(one for one in CALIBRATION_PICTURES if one.path.endswith(f"/{name}.jpg"))
    raw = cache.read(member)
    assert raw is not None
    return np.asarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("name", "label"),
    [("orange", "orange"), ("baboon", "baboon"), ("squirrel_cls", "fox squirrel"), ("butterfly", "monarch")],
)
def test_classifier_names_what_is_in_the_picture(cache: Cache, name: str, label: str, runtime: str) -> None:
    probabilities = RUNTIMES[runtime](load(cache, "efficientnet-lite0"))({"frame": picture(cache, name)[None]})
    found = probabilities["probabilities"][0]
    assert cache.repository.labels("efficientnet-lite0")["probabilities"][int(found.argmax())].startswith(label)
    assert found.sum() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", ["mobilenetv2-embed", "mobilenetv2-int8"])
def test_embedding_is_alike_for_alike_pictures(cache: Cache, frame: Frame, name: str) -> None:
    run = openvino_runner(load(cache, name))
    later = next(iter(read_frames((cache.data / "vtest.avi").read_bytes(), [605])))
    first, second, other = (
        run({"frame": one[None]})["embedding"][0] for one in (frame, later, picture(cache, "orange"))
    )
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-4)
    assert first @ second > 0.95
    assert first @ other < 0.7


def test_quadrotor_policy_flies_the_shipped_roll_out(cache: Cache) -> None:
    rollout = cache.repository.find("raptor").manifest.report["rollout"]
    assert (rollout["steps"], rollout["error_max"] < 1e-5) == (500, True)


def test_voice_detector_hears_what_the_original_graph_hears(cache: Cache) -> None:
    speech = cache.repository.find("silero-vad").manifest.report["speech"]
    assert speech["steps"] > 200
    assert speech["error_max"] < 1e-4
    assert 0.3 < speech["speech_share"] < 0.8  # both kinds of sound are in it
