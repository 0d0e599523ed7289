"""From the best answer to any answer: the frame cache, the response cache and what a request allows instead.

Model `large` runs a frame in 100 ms, `small` in 1 ms; both return the frame, so an answer shows what it saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.duration_pb2 import Duration
from starling.inference.open_inference_pb2 import ModelStatisticsRequest
from starling.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub
from starling.predict.v1.predict_service_pb2 import (
    Alternative,
    FrameCachePolicy,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
)
from starling.predict.v1.predict_service_pb2_grpc import PredictServiceStub
from starling.tensor.v1.tensor_pb2 import DATA_TYPE_UINT8, Tensor

from engines import DataType
from services.client import Client, InvalidInput, LastValue, SimilarFrame
from tests.support.node import RunningNode, StartNode, running_node
from tests.support.node_calls import read_refusal, refused
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

LARGE_S = 0.4
HURRY_S = LARGE_S / 2  # too short for the large model, and plenty for everything else on a busy machine
FORGETS_MS = 100
SIDE = 64
Frame = npt.NDArray[np.uint8]


def within(seconds: float, similarity: float | None = None) -> FrameCachePolicy:
    policy = FrameCachePolicy(min_similarity=similarity)
    policy.max_staleness.FromNanoseconds(round(seconds * 1e9))
    return policy


def last_value(seconds: float) -> Alternative:
    return Alternative(last_value=Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds)))


def scene(seed: int) -> Frame:
    """Returns a frame with structure: blocks of colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (1, 8, 8, 3), np.uint8)
    return blocks.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)


def flicker(frame: Frame) -> Frame:
    """Returns the frame with the noise of a camera that stands still."""
    noise = np.random.default_rng(9).integers(-2, 3, frame.shape)
    return np.clip(frame.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def request(frame: Frame, stream: str, model: str = "large", **fields: Any) -> PredictRequest:
    tensor = Tensor(name="x0", data_type=DATA_TYPE_UINT8, shape=frame.shape, data=frame.tobytes())
    return PredictRequest(model_name=model, inputs=[tensor], stream_id=stream, **fields)


def seen(response: PredictResponse) -> Frame:
    return np.frombuffer(response.outputs[0].data, np.uint8).reshape(tuple(response.outputs[0].shape))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("ladder")
    frame = (DataType.UINT8, (-1, -1, 3))
    publish(root / "models", identity("large", frame, delay_us=round(LARGE_S * 1e6), queue_max=2))
    publish(root / "models", identity("small", frame, delay_us=1000))
    publish(
        root / "models", replace(identity("remembers", (DataType.FP32, (4,)), delay_us=2000), response_cache_ms=5000)
    )
    publish(root / "models", replace(identity("forgets", (DataType.FP32, (4,))), response_cache_ms=FORGETS_MS))
    with running_node(root, root / "models") as node:
        yield node


@pytest.fixture
def predict(channel: grpc.Channel) -> Any:
    return PredictServiceStub(channel).Predict


def test_a_still_scene_is_answered_from_the_frame_cache(predict: Any) -> None:
    first = scene(1)
    fresh = predict(request(first, "still", cache=within(60)), timeout=20)
    assert (fresh.from_cache, fresh.staleness_ms, fresh.degraded_to) == (False, 0, "")
    answer = predict(request(flicker(first), "still", cache=within(60)), timeout=20)
    assert answer.from_cache
    assert 0.95 <= answer.similarity < 1
    assert answer.staleness_ms >= LARGE_S * 1e3 - 1
    assert answer.timing.total_us < LARGE_S * 1e6 / 2
    assert np.array_equal(seen(answer), first)


def test_what_one_tenant_saw_is_never_told_to_another(predict: Any) -> None:
    first = scene(5)
    predict(request(first, "cam", cache=within(60)), timeout=20, metadata=(("x-tenant", "a"),))
    # The same name, the name with the other's in front, and a tenant that is a part of the name.
    for tenant, stream in (("b", "cam"), ("", "cam"), ("", "a/cam"), ("a/cam", "")):
        metadata = (("x-tenant", tenant),) if tenant else ()
        asked = request(flicker(first), stream, cache=within(60), allow=[last_value(60)])
        assert not predict(asked, timeout=20, metadata=metadata).from_cache, (tenant, stream)
    again = request(flicker(first), "cam", cache=within(60))
    assert predict(again, timeout=20, metadata=(("x-tenant", "a"),)).from_cache


def test_another_scene_another_stream_an_old_answer_and_no_consent_are_computed(predict: Any) -> None:
    first = scene(2)
    predict(request(first, "watched", cache=within(60)), timeout=20)
    cases = {
        "another scene": request(scene(3), "watched", cache=within(60)),
        "no consent": request(flicker(first), "watched"),
        "another stream": request(flicker(first), "elsewhere", cache=within(60)),
        "stricter than the noise": request(flicker(first), "watched", cache=within(60, 0.99999)),
        "too old": request(scene(3), "watched", cache=within(0.001)),
    }
    for name, asked in cases.items():
        answer = predict(asked, timeout=20)
        assert not answer.from_cache, name
        assert np.array_equal(seen(answer), np.frombuffer(asked.inputs[0].data, np.uint8).reshape(1, SIDE, SIDE, 3)), (
            name
        )


def test_a_smaller_model_answers_what_the_large_one_cannot_in_time(node: RunningNode, predict: Any) -> None:
    before = node.count("starling_degraded_total")
    answer = predict(request(scene(4), "hurry", allow=[Alternative(model_name="small")]), timeout=HURRY_S)
    assert (answer.model_name, answer.degraded_to, answer.from_cache) == ("small", "small", False)
    assert np.array_equal(seen(answer), scene(4))
    assert node.count("starling_degraded_total") == before + 1
    # With time enough the first choice answers.
    assert predict(request(scene(4), "hurry", allow=[Alternative(model_name="small")]), timeout=20).degraded_to == ""


def test_alternatives_are_tried_in_their_order(predict: Any) -> None:
    known = scene(5)
    allow = [Alternative(cached=within(60)), last_value(60), Alternative(model_name="small")]
    assert predict(request(known, "ladder", allow=allow), timeout=20).degraded_to == ""
    similar = predict(request(flicker(known), "ladder", allow=allow), timeout=HURRY_S)
    assert (similar.degraded_to, similar.from_cache) == ("cached", True)
    different = predict(request(scene(6), "ladder", allow=allow), timeout=HURRY_S)
    assert (different.degraded_to, different.from_cache) == ("last_value", True)
    assert np.array_equal(seen(different), known)
    # Both saw the first frame, which came before its answer.
    assert LARGE_S * 1e3 - 1 <= similar.staleness_ms <= different.staleness_ms < 60_000
    assert similar.similarity >= 0.95
    nothing_known = predict(request(scene(6), "new", allow=allow), timeout=HURRY_S)
    assert (nothing_known.degraded_to, nothing_known.from_cache) == ("small", False)


def test_a_last_value_that_is_too_old_is_none(predict: Any) -> None:
    predict(request(scene(11), "ageing", allow=[last_value(60)]), timeout=20)
    allow = [last_value(0.001), Alternative(model_name="small")]
    assert predict(request(scene(12), "ageing", allow=allow), timeout=HURRY_S).degraded_to == "small"


def test_a_stream_may_change_its_shape(predict: Any) -> None:
    small = scene(13)
    wide = np.concatenate([small, scene(14)], axis=2)
    for frame, known in ((small, False), (wide, False), (flicker(wide), True), (small, False), (flicker(small), True)):
        answer = predict(request(frame, "zooms", cache=within(60)), timeout=20)
        assert answer.from_cache == known
        assert seen(answer).shape == frame.shape
        assert known or np.array_equal(seen(answer), frame)
    # Boxes of another size of frame would lie elsewhere in this one.
    hurried = request(wide, "zooms", allow=[last_value(60), Alternative(model_name="small")])
    assert predict(hurried, timeout=HURRY_S).degraded_to == "small"
    hurried = request(scene(14), "zooms", allow=[last_value(60), Alternative(model_name="small")])
    assert predict(hurried, timeout=HURRY_S).degraded_to == "last_value"


def test_an_alternative_never_becomes_the_first_choices_answer(predict: Any) -> None:
    asked = request(scene(7), "honest", cache=within(60), allow=[Alternative(model_name="small")])
    assert predict(asked, timeout=HURRY_S).degraded_to == "small"
    assert not predict(asked, timeout=20).from_cache


def test_when_nothing_else_will_do_the_first_refusal_is_told(predict: Any) -> None:
    allow = [Alternative(model_name="nobody"), last_value(1), Alternative(cached=within(1))]
    refusal = refused(lambda: predict(request(scene(8), "alone", allow=allow), timeout=HURRY_S))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "DEADLINE_UNMEETABLE")
    assert refusal.facts["model"] == "large"


def test_a_missing_model_may_be_replaced_but_a_wrong_request_may_not(predict: Any) -> None:
    allow = [Alternative(model_name="small")]
    assert predict(request(scene(9), "a", model="nobody", allow=allow), timeout=20).degraded_to == "small"
    wrong = request(scene(9), "a", allow=allow)
    wrong.inputs[0].data = b"too short"
    assert refused(lambda: predict(wrong, timeout=20)).reason == "INVALID_INPUT"


def test_equal_inputs_are_answered_from_the_response_cache(
    node: RunningNode, channel: grpc.Channel, predict: Any
) -> None:
    asked = PredictRequest(model_name="remembers")
    asked.inputs.add(name="x0", data_type=12, shape=[1, 4], data=np.arange(4, dtype="<f4").tobytes())
    runs = node.count("starling_executions_total", model="remembers")
    fresh, again = predict(asked, timeout=20), predict(asked, timeout=20)
    assert (fresh.from_cache, again.from_cache, again.similarity) == (False, True, 1)
    assert again.outputs == fresh.outputs
    asked.inputs[0].data = np.arange(1, 5, dtype="<f4").tobytes()
    assert not predict(asked, timeout=20).from_cache
    assert node.count("starling_executions_total", model="remembers") == runs + 2
    inference = GRPCInferenceServiceStub(channel)
    (statistics,) = inference.ModelStatistics(ModelStatisticsRequest(name="remembers"), timeout=20).model_stats
    hit, miss = statistics.inference_stats.cache_hit, statistics.inference_stats.cache_miss
    assert (hit.count, miss.count) == (1, 2)
    assert 0 < hit.ns < statistics.inference_stats.success.ns, "looking up is a part of answering"
    assert miss.ns > 0


def test_an_answer_is_remembered_no_longer_than_its_model_says(predict: Any) -> None:
    asked = PredictRequest(model_name="forgets")
    asked.inputs.add(name="x0", data_type=12, shape=[1, 4], data=bytes(16))
    fresh = 0
    ages_ms = []

    def is_forgotten_again() -> bool:
        nonlocal fresh
        answer = predict(asked, timeout=20)
        fresh += not answer.from_cache
        ages_ms.append(answer.staleness_ms)
        return fresh == 3

    # Others of this node are remembered for ten seconds; each fresh answer is remembered anew.
    assert wait_until(is_forgotten_again)
    assert max(ages_ms) <= FORGETS_MS


def test_what_an_unloaded_model_answered_is_forgotten(tmp_path: Path, start_node: StartNode) -> None:
    frame = (DataType.UINT8, (-1, -1, 3))
    for config in (
        identity("sees", frame),
        identity("stays", frame),
        replace(identity("remembers", (DataType.FP32, (4096,))), response_cache_ms=10_000),
    ):
        publish(tmp_path / "models", config)
    node = start_node(tmp_path / "models")

    def kept() -> tuple[float, float]:
        return node.count("starling_frame_cache_bytes"), node.count("starling_response_cache_bytes")

    with node.connect() as channel, Client(node.target) as client:
        predict = PredictServiceStub(channel).Predict
        for model in ("stays", "sees"):
            before = kept()[0]
            predict(request(scene(1), "camera", model, cache=within(10)), timeout=20)
            assert kept()[0] > before
        client.predict("remembers", {"x0": np.ones((1, 4096), np.float32)}, deadline_s=20)
        assert kept()[1] > 4 * 4096
        client.unload("remembers")
        assert kept()[1] == 0
        client.unload("sees")
        assert kept()[0] == before
        again = predict(request(scene(1), "camera", "stays", cache=within(10)), timeout=20)
        assert again.from_cache


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: r.cache.CopyFrom(FrameCachePolicy()), "`cache`"),
        (lambda r: r.cache.CopyFrom(within(1, 1.5)), "min_similarity in (0, 1]"),
        (lambda r: r.allow.add(), "`allow`"),
        (lambda r: r.allow.append(last_value(0)), "with a time above 0"),
        (lambda r: r.allow.extend([Alternative(model_name="small")] * 5), "at most 4 alternatives"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(predict: Any, spoil: Any, says: str) -> None:
    asked = request(scene(1), "spoilt")
    spoil(asked)
    refusal = refused(lambda: predict(asked, timeout=20))
    assert refusal.reason == "INVALID_INPUT"
    assert says in refusal.text


def test_streams_walk_the_ladder_too(channel: grpc.Channel) -> None:
    frames = [scene(20), flicker(scene(20)), scene(21)]
    asked = (
        PredictStreamRequest(request=request(f, "flow", cache=within(60), sequence=i)) for i, f in enumerate(frames)
    )
    answers = []
    stream = PredictServiceStub(channel).PredictStream(iter([next(asked)]), timeout=20)
    answers += list(stream)
    answers += list(PredictServiceStub(channel).PredictStream(asked, timeout=20))
    assert [a.response.from_cache for a in answers] == [False, True, False]


def test_a_caller_that_leaves_while_alternatives_are_tried_leaves_nothing_behind(
    node: RunningNode, channel: grpc.Channel
) -> None:
    calls = [
        PredictServiceStub(channel).Predict.future(
            request(scene(30), f"gone-{i}", allow=[Alternative(model_name="small")]), timeout=2 * LARGE_S
        )
        for i in range(40)
    ]
    for call in calls[::2]:
        call.cancel()
    for call in calls[1::2]:
        error = call.exception()
        assert error is None or read_refusal(error).reason in (
            "DEADLINE_UNMEETABLE",
            "QUEUE_FULL",
            "DEADLINE_PASSED",
            "",
        )
    assert wait_until(lambda: node.count("starling_calls_in_flight") == 0)


def test_the_client_says_what_will_do_and_what_stood_in(client: Client) -> None:
    frame = scene(40)
    allow = (SimilarFrame(60), "small")
    fresh = client.predict("large", {"x0": frame}, deadline_s=20, stream_id="camera", allow=allow)
    assert (fresh.from_cache, fresh.degraded_to) == (False, "")
    hurried = client.predict("large", {"x0": flicker(frame)}, deadline_s=HURRY_S, stream_id="camera", allow=allow)
    assert (hurried.from_cache, hurried.degraded_to) == (True, "cached")
    assert hurried.similarity >= 0.95
    assert "degraded_to=cached" in repr(hurried)
    still = client.predict("large", {"x0": flicker(frame)}, deadline_s=20, stream_id="camera", cache=SimilarFrame(60))
    assert still.from_cache
    with pytest.raises(InvalidInput, match="max_staleness_s is 0"):
        client.predict("large", {"x0": frame}, allow=[LastValue(0)])
