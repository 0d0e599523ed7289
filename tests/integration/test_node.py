"""What a node answers: values against NumPy, whose rows they are, and who answered in what time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from services.client import Client, InternalError, InvalidInput, Prediction
from tests.support import node_models as models
from tests.support.node import RunningNode

DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


def random_array(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Returns any bit patterns of a type, NaNs and infinities included."""
    raw = rng.integers(0, 2 if dtype is np.bool_ else 256, (*shape, np.dtype(dtype).itemsize), np.uint8)
    return raw.view(dtype)[..., 0]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_every_type_comes_back_bit_by_bit(client: Client, rows: int) -> None:
    assert tuple(DTYPES) == models.TYPES
    rng = np.random.default_rng(rows)
    sent = {f"x{i}": random_array(rng, dtype, (rows, 3)) for i, dtype in enumerate(DTYPES.values())}
    answer = client.predict("every-type", sent)
    assert list(answer.outputs) == [f"y{i}" for i in range(len(sent))]
    for (name, given), (_, got) in zip(sent.items(), answer.outputs.items(), strict=True):
        assert (got.dtype, got.shape) == (given.dtype, given.shape), name
        assert got.tobytes() == given.tobytes(), name


def test_texts_come_back_as_bytes(client: Client) -> None:
    texts = np.array([["a", "zwölf"], ["", "x" * 5000]])
    assert client.predict("texts", {"x0": texts})["y0"].tolist() == [[b"a", "zwölf".encode()], [b"", b"x" * 5000]]


@pytest.mark.parametrize("rows", range(1, 5))
def test_a_graph_reads_and_writes_texts(client: Client, rows: int) -> None:
    texts = np.array([["a" * row, "bc", "zwölf"] for row in range(rows)], object)
    answer = client.predict("lengths", {"text": texts})
    assert answer["length"].tolist() == [[row, 2, 6] for row in range(rows)]
    assert answer["same"].tolist() == [[b"a" * row, b"bc", "zwölf".encode()] for row in range(rows)]


@pytest.mark.parametrize("rows", range(1, 9))
def test_echo_answers_every_batch_size(client: Client, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 64), np.float32)
    np.testing.assert_array_equal(client.predict("echo", {"x0": x})["y0"], x)


@pytest.mark.parametrize("rows", range(1, 5))
def test_a_graph_computes_what_numpy_computes(client: Client, rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 3), np.float32)
    np.testing.assert_array_equal(client.predict("plus-one", {"x": x})["y"], x + np.float32(1))


@pytest.mark.parametrize("size", [1, 2, 4095, 4096, 4097, 70_000, 3_000_000])
def test_free_dimensions_take_any_size(client: Client, size: int) -> None:
    frame = np.random.default_rng(size).integers(0, 256, (1, size), np.uint8)
    assert client.predict("bytes", {"x0": frame}, deadline_s=5)["y0"].tobytes() == frame.tobytes()


def test_a_detector_answers_padded_boxes_after_nms(client: Client) -> None:
    levels = np.array([[204, 153, 102], [0, 255, 255]], np.uint8)  # each channel is one anchor's score
    frames = np.broadcast_to(levels[:, None, None, :], (2, 24, 32, 3))
    answer = client.predict("colours", {"frame": frames})
    shapes = {name: (array.dtype.name, array.shape) for name, array in answer.outputs.items()}
    assert shapes == {
        "boxes": ("float32", (2, 100, 4)),
        "scores": ("float32", (2, 100)),
        "classes": ("int32", (2, 100)),
        "count": ("int32", (2,)),
    }
    assert answer["count"].tolist() == [2, 2]
    # The first two anchors overlap: the better one stays. The third overlaps nothing.
    np.testing.assert_allclose(answer["boxes"][0, :2], models.ANCHORS[[0, 2]])
    np.testing.assert_allclose(answer["scores"][0, :2], [0.8, 0.4], atol=1e-5)
    np.testing.assert_allclose(answer["scores"][1, :2], [1.0, 1.0], atol=1e-5)
    assert {tuple(box) for box in answer["boxes"][1, :2].tolist()} == {tuple(models.ANCHORS[i]) for i in (1, 2)}
    assert not answer["boxes"][:, 2:].any()
    assert not answer["scores"][:, 2:].any()
    assert client.predict("colours", {"frame": np.zeros((1, 9, 7, 3), np.uint8)})["count"].tolist() == [0]


def test_requests_that_share_a_batch_get_their_own_rows(client: Client) -> None:
    rng = np.random.default_rng(7)

    def send(number: int) -> tuple[np.ndarray, Prediction]:
        # Two widths, so that not every request may join every batch.
        x = np.full((int(sizes[number]), int(widths[number])), number, np.float32)
        return x, client.predict("batched", {"x0": x}, request_id=str(number), deadline_s=30)

    count = 240
    sizes, widths = rng.integers(1, 9, count), rng.choice([3, 5], count)
    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(send, range(count)))
    for number, (x, answer) in enumerate(answers):
        np.testing.assert_array_equal(answer["y0"], x)
        assert answer.request_id == str(number)
        assert len(x) <= answer.batch_size <= 8
    assert any(answer.batch_size > len(x) for x, answer in answers), "no two requests shared a batch"


def test_only_the_wanted_outputs_are_sent_in_signature_order(client: Client) -> None:
    frame = {"frame": np.zeros((1, 8, 8, 3), np.uint8)}
    assert list(client.predict("colours", frame, outputs=["count", "scores"]).outputs) == ["scores", "count"]
    assert list(client.predict("colours", frame, outputs=["count", "count"]).outputs) == ["count"]
    with pytest.raises(InvalidInput, match='output "mask" is unknown, colours returns boxes, scores, classes, count'):
        client.predict("colours", frame, outputs=["count", "mask"])


def test_the_answer_says_who_what_and_how_long(client: Client) -> None:
    answer = client.predict(
        "batched", {"x0": np.zeros((2, 4), np.float32)}, request_id="r-ü", stream_id="cam", sequence=3
    )
    assert (answer.model, answer.version, answer.node, answer.request_id) == ("batched", 1, "node-1", "r-ü")
    assert answer.batch_size == 2
    assert answer.queue_us >= 0
    assert 2_000 <= answer.compute_us <= answer.total_us <= answer.round_trip_us
    assert answer.queue_us + answer.compute_us <= answer.total_us + 1


def test_a_failing_engine_is_named_and_the_node_goes_on(client: Client) -> None:
    with pytest.raises(InternalError) as caught:
        client.predict("broken", {"x0": np.zeros((1, 4), np.float32)})
    assert caught.value.reason == "ENGINE_FAILED"
    assert str(caught.value).startswith("broken:1 failed in identity_cpu: identity engine was told to fail")
    facts = caught.value.metadata
    assert (facts["model"], facts["batch_size"]) == ("broken", "1")
    assert {"queue_us", "batch_wait_us", "compute_us", "total_us"} <= facts.keys()
    assert client.predict("echo", {"x0": np.zeros((1, 64), np.float32)}).node == "node-1"


def test_many_clients_at_once_get_only_their_own_answers(node: RunningNode) -> None:
    def run(number: int) -> None:
        with Client(node.target) as own:
            for step in range(20):
                x = np.full((1 + step % 8, 64), number * 1000 + step, np.float32)
                np.testing.assert_array_equal(own.predict("echo", {"x0": x}, deadline_s=10)["y0"], x)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(run, range(16)))
