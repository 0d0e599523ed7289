"""Tests of the detector's graph around the network: the picture that goes in and the boxes that come out."""

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from engines.agreement import BoxAgreement
from engines.assets.detector import AGREEMENT_BAR, check_agreement
from engines.assets.errors import QualityTooLow
from engines.assets.nanodet import BINS, CLASSES, DEVIATION, MEAN, STRIDES, build_nanodet
from engines.assets.tfjs import TfjsModel, read_tfjs
from engines.runners import RUNTIMES, onnxruntime_runner

F32 = npt.NDArray[np.float32]
CHANNELS = CLASSES + 4 * BINS
SIZE = 64
RNG = np.random.default_rng(11)


def tiny_network() -> tuple[TfjsModel, dict[int, tuple[F32, F32]]]:
    """A network with the inputs and heads of the real one: a patchwise linear map per level."""
    nodes: list[dict[str, Any]] = [
        {
            "name": "image",
            "op": "Placeholder",
            "attr": {"shape": {"shape": {"dim": [{"size": str(n)} for n in (1, 3, SIZE, SIZE)]}}},
        },
        {"name": "last", "op": "Const"},
        {"name": "first", "op": "Const"},
        {"name": "picture", "op": "Transpose", "input": ["image", "last"]},
    ]
    entries = [{"name": name, "shape": [4], "dtype": "int32"} for name in ("last", "first")]
    raw = np.array([0, 2, 3, 1, 0, 3, 1, 2], np.int32).tobytes()
    layers: dict[int, tuple[F32, F32]] = {}
    for stride in STRIDES:
        weight = (RNG.standard_normal((stride, stride, 3, CHANNELS)) / stride).astype(np.float32)
        bias = RNG.standard_normal((CHANNELS,)).astype(np.float32)
        layers[stride] = weight, bias
        for name, array in ((f"w{stride}", weight), (f"b{stride}", bias)):
            nodes.append({"name": name, "op": "Const"})
            entries.append({"name": name, "shape": list(array.shape), "dtype": "float32"})
            raw += array.tobytes()
        steps = {"list": {"i": ["1", str(stride), str(stride), "1"]}}
        ones = {"list": {"i": ["1"] * 4}}
        attributes = {"padding": {"s": "VkFMSUQ="}, "strides": steps, "dilations": ones}
        nodes += [
            {"name": f"c{stride}", "op": "Conv2D", "input": ["picture", f"w{stride}"], "attr": attributes},
            {"name": f"a{stride}", "op": "Add", "input": [f"c{stride}", f"b{stride}"]},
            {"name": f"t{stride}", "op": "Transpose", "input": [f"a{stride}", "first"]},
            {"name": f"s{stride}", "op": "SplitV", "input": [f"t{stride}", "first", "last"]},
        ]
    document = {"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": entries}]}
    return read_tfjs(json.dumps(document).encode(), raw), layers


def reference(frame: npt.NDArray[np.uint8], layers: dict[int, tuple[F32, F32]]) -> tuple[F32, F32]:
    """What the graph should answer for a frame of the network's own size, cell by cell."""
    image = (frame.astype(np.float32) - MEAN) / DEVIATION
    boxes, scores = [], []
    for stride, (weight, bias) in layers.items():
        for row in range(SIZE // stride):
            for column in range(SIZE // stride):
                patch = image[row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
                found = np.einsum("hwc,hwco->o", patch, weight) + bias
                scores.append(1 / (1 + np.exp(-found[:CLASSES])))
                bins = np.exp(found[CLASSES:].reshape(4, BINS))
                left, top, right, bottom = stride * (bins @ np.arange(BINS)) / bins.sum(1)
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                boxes.append([x - left, y - top, x + right, y + bottom])
    return np.clip(boxes, 0, SIZE).astype(np.float32), np.array(scores, np.float32)


def frames(*shape: int) -> npt.NDArray[np.uint8]:
    return RNG.integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="module")
def built() -> tuple[onnx.ModelProto, dict[int, tuple[F32, F32]]]:
    network, layers = tiny_network()
    return build_nanodet(network, SIZE), layers


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_decoding_follows_the_definition(runtime: str, built: Any) -> None:
    model, layers = built
    frame = frames(2, SIZE, SIZE, 3)
    found = RUNTIMES[runtime](model)({"frame": frame})
    assert found["boxes"].shape == (2, 64 + 16 + 4, 4)
    for at in range(2):
        boxes, scores = reference(frame[at], layers)
        np.testing.assert_allclose(found["boxes"][at], boxes, atol=1e-3)
        np.testing.assert_allclose(found["scores"][at], scores, atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_boxes_are_in_pixels_of_the_given_frame_and_inside_of_it(runtime: str, built: Any) -> None:
    run = RUNTIMES[runtime](built[0])
    small = frames(1, SIZE, SIZE, 3)
    large = small.repeat(3, axis=1).repeat(2, axis=2)
    inner, outer = run({"frame": small})["boxes"], run({"frame": large})["boxes"]
    assert outer[..., [0, 2]].max() <= 2 * SIZE
    assert outer[..., [1, 3]].max() <= 3 * SIZE
    assert min(inner.min(), outer.min()) >= 0
    # Half-pixel resizing of repeated pixels blends some neighbours, so only the typical box is the same.
    assert np.median(np.abs(outer / [2, 3, 2, 3] - inner)) < 1.0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_frames_are_resized_as_opencv_does_it(runtime: str, built: Any) -> None:
    run = RUNTIMES[runtime](built[0])
    frame = cv2.GaussianBlur(frames(150, 230, 3), (0, 0), 5)
    resized = cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    found, expected = run({"frame": frame[None]})["scores"], run({"frame": np.asarray(resized)[None]})["scores"]
    assert np.abs(found - expected).mean() < 0.05


def test_network_may_see_another_size_than_it_was_made_for(built: Any) -> None:
    network, _ = tiny_network()
    found = onnxruntime_runner(build_nanodet(network, 96))({"frame": frames(1, 40, 50, 3)})
    assert found["scores"].shape == (1, 144 + 36 + 9, CLASSES)


def test_disagreement_is_refused_and_says_what_was_measured() -> None:
    check_agreement("net", BoxAgreement(matched=93, missed=7, extra=50, frames=10))
    for poor in (BoxAgreement(92, 8, 0, 10), BoxAgreement(0, 0, 0, 10), BoxAgreement(0, 0, 0, 0)):
        with pytest.raises(QualityTooLow, match=f"expected at least {AGREEMENT_BAR}; it was not published") as caught:
            check_agreement("net", poor)
        assert caught.value.facts["bar"] == AGREEMENT_BAR
