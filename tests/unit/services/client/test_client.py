"""The blocking client against a real server: values, headers, deadlines, errors, retries."""

import pickle
import socket
import time
from random import Random
from threading import Event

import grpc
import numpy as np
import pytest
from starling.predict.v1 import model_service_pb2 as pb
from starling.predict.v1.model_service_pb2_grpc import ModelServiceServicer
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse
from starling.tensor.v1.tensor_pb2 import DataType, TensorSpec

from services.client import (
    Cancelled,
    Client,
    DeadlineExceeded,
    DeadlineUnmeetable,
    Draining,
    FailedPrecondition,
    InternalError,
    InvalidInput,
    MalformedReply,
    ModelNotFound,
    ModelNotReady,
    ModelState,
    NotFound,
    QueueFull,
    ResourceExhausted,
    RetryPolicy,
    SequenceNotFound,
    SequencesFull,
    StarlingError,
    Superseded,
    TensorInfo,
    Unavailable,
)
from tests.support.waiting import wait_until

from .conftest import FakeNode, Serve, abort, echo

FRAME = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)


class WireError(Exception):
    """An error with words, as the node raises them."""

    def __init__(self, status: str, reason: str, retry_delay_s: float | None = None, **facts: object) -> None:
        super().__init__(f"about {reason}")
        self.status, self.reason, self.retry_delay_s = status, reason, retry_delay_s
        self.__dict__.update(facts)


def refuse(status: str, reason: str, retry_delay_s: float | None = None, **facts: object) -> bytes:
    raise WireError(status, reason, retry_delay_s, **facts)


def test_arrays_go_in_and_come_out(node: FakeNode) -> None:
    with Client(node.target, agent_id="drone-7") as client:
        prediction = client.predict(
            "nanodet",
            {"frame": FRAME},
            version=3,
            outputs=["frame"],
            request_id="r-1",
            stream_id="cam",
            sequence=9,
            priority=2,
            budget_s=0.05,
            sequence_id="microphone",
            sequence_start=True,
        )
    assert np.array_equal(prediction["frame"], FRAME)
    assert not prediction["frame"].flags.writeable
    assert (prediction.model, prediction.version, prediction.node) == ("nanodet", 3, "edge-0")
    assert (prediction.queue_us, prediction.compute_us, prediction.total_us) == (10, 20, 35)
    assert (prediction.batch_size, prediction.request_id) == (2, "r-1")
    assert 0 < prediction.round_trip_us < 10_000_000
    (request,) = node.requests
    assert (request.stream_id, request.sequence, request.priority) == ("cam", 9, 2)
    assert (request.sequence_id, request.sequence_start, request.sequence_end) == ("microphone", True, False)
    assert (list(request.output_names), request.budget.ToMilliseconds()) == (["frame"], 50)
    assert node.metadata["x-agent-id"] == "drone-7"


def test_the_deadline_travels(node: FakeNode) -> None:
    with Client(node.target) as client:
        client.predict("m", {"x": FRAME}, deadline_s=3.0)
    assert 2.0 < node.remaining_s < 3.5  # gRPC rounds it up on the wire
    assert "x-agent-id" not in node.metadata


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        ("INVALID_ARGUMENT", "INVALID_INPUT", InvalidInput),
        ("NOT_FOUND", "MODEL_NOT_FOUND", ModelNotFound),
        ("FAILED_PRECONDITION", "MODEL_NOT_READY", ModelNotReady),
        ("FAILED_PRECONDITION", "CORRUPT_MODEL", FailedPrecondition),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", QueueFull),
        ("RESOURCE_EXHAUSTED", "DEADLINE_UNMEETABLE", DeadlineUnmeetable),
        ("RESOURCE_EXHAUSTED", "QUOTA", ResourceExhausted),
        ("ABORTED", "SUPERSEDED", Superseded),
        ("INVALID_ARGUMENT", "SEQUENCE_NOT_FOUND", SequenceNotFound),
        ("RESOURCE_EXHAUSTED", "SEQUENCES_FULL", SequencesFull),
        ("ABORTED", "CONFLICT", StarlingError),
        ("RESOURCE_EXHAUSTED", "SUPERSEDED", ResourceExhausted),
        ("DEADLINE_EXCEEDED", "DEADLINE_PASSED", DeadlineExceeded),
        ("UNAVAILABLE", "DRAINING", Draining),
        ("INTERNAL", "ENGINE_FAILED", InternalError),
        ("CANCELLED", "CANCELLED", Cancelled),
        ("NOT_FOUND", "AGENT_NOT_FOUND", NotFound),
        ("UNIMPLEMENTED", "NOT_YET", StarlingError),
        ("INTERNAL", "QUEUE_FULL", InternalError),
    ],
)
def test_every_reason_has_its_error(node: FakeNode, status: str, reason: str, kind: type[StarlingError]) -> None:
    node.answer = lambda _: refuse(status, reason, model="nanodet", queued=64)
    with Client(node.target) as client, pytest.raises(StarlingError) as caught:
        client.predict("nanodet", {"frame": FRAME})
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.reason, error.message) == (status, reason, f"about {reason}")
    assert dict(error.metadata) == {"model": "nanodet", "queued": "64"}
    assert error.retry_delay_s is None


def test_a_retry_delay_is_part_of_the_error(node: FakeNode) -> None:
    node.answer = lambda _: refuse("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.25)
    with Client(node.target) as client, pytest.raises(QueueFull) as caught:
        client.predict("m", {"x": FRAME})
    assert caught.value.retry_delay_s == 0.25
    assert repr(caught.value) == "<QueueFull QUEUE_FULL retry in 0.25 s: about QUEUE_FULL>"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (repr(again), dict(again.metadata)) == (repr(caught.value), {})


def test_no_answer_in_time_names_the_target_and_the_time(node: FakeNode) -> None:
    release = Event()

    def stall(request: PredictRequest) -> bytes:
        release.wait(30)
        return echo(request)

    node.answer = stall
    with Client(node.target) as client, pytest.raises(DeadlineExceeded) as caught:
        client.predict("m", {"x": FRAME}, deadline_s=0.05)
    release.set()
    assert f"no answer from {node.target} within 0.05 s" in str(caught.value)
    assert caught.value.reason == "DEADLINE_PASSED"


def test_nobody_at_the_target_is_unavailable_at_once() -> None:
    with socket.socket() as taken:  # bound, so that no server gets it; not listening
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        start_s = time.monotonic()
        with Client(target) as client:
            with pytest.raises(Unavailable) as caught:
                client.predict("m", {"x": FRAME}, deadline_s=20)
            assert time.monotonic() - start_s < 10
            with pytest.raises(Unavailable, match=r"check that it is up"):
                client.wait_until_connected(deadline_s=0.05)
    assert f"cannot reach {target}" in str(caught.value)
    assert caught.value.retry_delay_s is None


def test_a_server_without_the_service_is_an_error_of_ours(serve: Serve) -> None:
    target = serve().target
    with Client(target) as client, pytest.raises(StarlingError) as caught:
        client.models()
    assert caught.value.status == "UNIMPLEMENTED"


@pytest.mark.parametrize("reply", [b"\xff", b"\x22\x05abc", b"not protobuf at all"])
def test_a_reply_of_other_bytes_is_malformed(node: FakeNode, reply: bytes) -> None:
    node.answer = lambda _: reply
    with Client(node.target) as client, pytest.raises(MalformedReply):
        client.predict("m", {"x": FRAME})


def test_a_reply_with_lying_bytes_is_malformed(node: FakeNode) -> None:
    def lie(request: PredictRequest) -> bytes:
        response = PredictResponse.FromString(echo(request))
        response.outputs[0].data = b"123"
        return response.SerializeToString()

    node.answer = lie
    with Client(node.target) as client, pytest.raises(MalformedReply, match=r"has 3 bytes; UINT8\[1, 2, 4, 3\]"):
        client.predict("m", {"x": FRAME})


def test_a_reply_over_the_limit_is_an_error_not_a_hang(node: FakeNode) -> None:
    node.answer = lambda _: bytes(64 * 1024 * 1024 + 1)
    with Client(node.target) as client, pytest.raises(ResourceExhausted):
        client.predict("m", {"x": FRAME}, deadline_s=20)


def test_six_megabytes_travel(node: FakeNode) -> None:
    frame = np.zeros((1, 1080, 1920, 3), np.uint8)
    with Client(node.target) as client:
        assert client.predict("m", {"frame": frame}, deadline_s=20)["frame"].shape == frame.shape


@pytest.mark.parametrize("deadline_s", [0, -1, float("inf"), float("nan"), "1", None])
def test_a_deadline_that_is_none_is_refused(node: FakeNode, deadline_s: float) -> None:
    with Client(node.target) as client, pytest.raises(InvalidInput, match=r"deadline_s is"):
        client.predict("m", {"x": FRAME}, deadline_s=deadline_s)
    assert not node.requests


@pytest.mark.parametrize("target", ["", "  ", None])
def test_a_target_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected HOST:PORT"):
        Client(target)


def test_an_agent_id_that_no_header_holds_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"printable ASCII"):
        Client("127.0.0.1:1", agent_id="drohne-\u00fc\n")


def test_a_closed_client_says_so(node: FakeNode) -> None:
    client = Client(node.target)
    client.close()
    client.close()
    with pytest.raises(Unavailable, match=r"is closed"):
        client.predict("m", {"x": FRAME})


def test_nothing_is_tried_again_without_a_policy(node: FakeNode) -> None:
    node.answer = lambda _: refuse("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.001)
    with Client(node.target) as client, pytest.raises(QueueFull):
        client.predict("m", {"x": FRAME})
    assert len(node.requests) == 1


def test_a_policy_waits_as_asked_and_then_gets_the_answer(node: FakeNode) -> None:
    def full_once(request: PredictRequest) -> bytes:
        return refuse("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.05) if len(node.requests) == 1 else echo(request)

    node.answer = full_once
    start_s = time.monotonic()
    with Client(node.target, retry=RetryPolicy()) as client:
        prediction = client.predict("m", {"x": FRAME}, deadline_s=10)
    assert time.monotonic() - start_s >= 0.05
    assert prediction.round_trip_us < (time.monotonic() - start_s) * 1e6 - 50_000
    assert len(node.requests) == 2


def test_a_policy_gives_up_rather_than_miss_the_deadline(node: FakeNode) -> None:
    node.answer = lambda _: refuse("RESOURCE_EXHAUSTED", "QUEUE_FULL", 60.0)
    start_s = time.monotonic()
    with Client(node.target, retry=RetryPolicy(attempts_max=9)) as client, pytest.raises(QueueFull):
        client.predict("m", {"x": FRAME}, deadline_s=5)
    assert time.monotonic() - start_s < 4
    assert len(node.requests) == 1


def test_a_policy_does_not_repeat_what_cannot_succeed(node: FakeNode) -> None:
    node.answer = lambda _: refuse("INVALID_ARGUMENT", "INVALID_INPUT")
    with Client(node.target, retry=RetryPolicy()) as client, pytest.raises(InvalidInput):
        client.predict("m", {"x": FRAME})
    assert len(node.requests) == 1


def test_a_policy_never_sends_a_superseded_frame_again(node: FakeNode) -> None:
    node.answer = lambda _: refuse("ABORTED", "SUPERSEDED", 0.001)  # the delay is a mistake of the peer
    with Client(node.target, retry=RetryPolicy()) as client, pytest.raises(Superseded):
        client.predict("m", {"x": FRAME}, deadline_s=5)
    assert len(node.requests) == 1


def test_an_unmeetable_deadline_says_what_an_answer_would_have_needed(node: FakeNode) -> None:
    node.answer = lambda _: refuse(
        "RESOURCE_EXHAUSTED", "DEADLINE_UNMEETABLE", 0.02, predicted_us=70_000, left_us=50_000
    )
    with Client(node.target) as client, pytest.raises(DeadlineUnmeetable) as caught:
        client.predict("m", {"x": FRAME}, deadline_s=0.05)
    assert (caught.value.needed_s, caught.value.retry_delay_s) == (0.07, 0.02)


@pytest.mark.parametrize(
    ("facts", "needed_s"),
    [
        ({"predicted_us": "70000", "left_us": "50000"}, 0.07),
        ({"queue_us": "3", "left_us": "50000"}, 0.05),  # given up in the queue: this was too little
        ({"predicted_us": "soon", "left_us": "50000"}, 0.05),
        ({"predicted_us": "9" * 10_000}, 999_999_999_999.999999),
        ({"predicted_us": "-1"}, None),
        ({"predicted_us": "\u0663"}, None),  # a digit, of another script
        ({}, None),
    ],
)
def test_what_an_answer_needs_is_read_from_whatever_the_node_says(
    facts: dict[str, str], needed_s: float | None
) -> None:
    assert DeadlineUnmeetable("late", metadata=facts).needed_s == needed_s


def test_an_unmeetable_deadline_is_tried_again_only_while_there_is_time_for_it() -> None:
    policy = RetryPolicy(backoff_s=0.001)
    error = DeadlineUnmeetable("late", metadata={"predicted_us": "70000"}, retry_delay_s=0.02)

    def wait_s(left_s: float) -> float | None:
        return policy.get_wait_s(error, attempt=1, left_s=left_s, rng=Random(7))

    # The delay alone would fit into 60 ms; an answer after it would not.
    assert wait_s(0.060) is None
    assert wait_s(0.089) is None
    assert 0.02 <= (wait_s(0.1) or 0) < 0.021


def test_a_budget_is_spent_anew_by_a_second_try_but_the_deadline_is_not(node: FakeNode) -> None:
    def late_once(request: PredictRequest) -> bytes:
        if len(node.requests) > 1:
            return echo(request)
        return refuse("RESOURCE_EXHAUSTED", "DEADLINE_UNMEETABLE", 0.005, predicted_us=70_000, left_us=65_000)

    node.answer = late_once
    with Client(node.target, retry=RetryPolicy()) as client:
        client.predict("m", {"x": FRAME}, deadline_s=5, budget_s=0.065)
        assert len(node.requests) == 2
        node.requests.clear()
        with pytest.raises(DeadlineUnmeetable):
            client.predict("m", {"x": FRAME}, deadline_s=0.068)
    assert len(node.requests) == 1


def test_a_step_is_sent_again_only_when_it_did_not_run() -> None:
    policy = RetryPolicy()

    def is_tried_again(error: StarlingError, *, is_step: bool) -> bool:
        return policy.get_wait_s(error, attempt=1, left_s=9.0, rng=Random(7), is_step=is_step) is not None

    lost = Unavailable("cannot reach the node", reason="")
    assert (is_tried_again(lost, is_step=False), is_tried_again(lost, is_step=True)) == (True, False)
    for refusal in (Draining("going", reason="DRAINING"), QueueFull("full", retry_delay_s=0.1)):
        assert is_tried_again(refusal, is_step=True)


def test_waits_grow_stay_bounded_and_obey_the_node() -> None:
    policy = RetryPolicy(attempts_max=10, backoff_s=0.1, backoff_s_max=0.4)
    rng = Random(7)

    def wait_s(error: StarlingError, attempt: int, left_s: float = 100.0) -> float | None:
        return policy.get_wait_s(error, attempt=attempt, left_s=left_s, rng=rng)

    gone = Unavailable("gone")
    waits = [wait_s(gone, attempt) or 0.0 for attempt in range(1, 10)]
    for wait, least in zip(waits, [0.1, 0.2, *[0.4] * 7], strict=True):
        assert least <= wait <= least * 1.5
    assert wait_s(gone, 10) is None
    assert wait_s(gone, 1, left_s=0.1) is None
    assert (wait_s(QueueFull("full", retry_delay_s=5.0), 1) or 0) >= 5.0
    assert wait_s(QueueFull("full"), 1) is None
    assert wait_s(DeadlineExceeded("late"), 1) is None


@pytest.mark.parametrize("policy", [{"attempts_max": 0}, {"backoff_s": 0.0}, {"backoff_s": 2.0}])
def test_a_policy_that_makes_no_sense_is_refused(policy: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        RetryPolicy(**policy)  # type: ignore[arg-type]


class Models(ModelServiceServicer):  # its methods are named by the proto
    """One ready model and one that failed."""

    def __init__(self) -> None:
        self.ready = pb.Model(
            name="nanodet",
            version=1,
            state=pb.MODEL_STATE_READY,
            engine="openvino_cpu",
            inputs=[TensorSpec(name="frame", data_type=DataType.DATA_TYPE_UINT8, dims=[-1, -1, 3])],
            outputs=[TensorSpec(name="classes", data_type=DataType.DATA_TYPE_INT32, dims=[100], labels=["person"])],
            max_batch_size=4,
            batch_buckets=[1, 4],
            license="Apache-2.0",
            engine_properties={"INFERENCE_PRECISION_HINT": "f32"},
        )
        timing = self.ready.bucket_timings.add(batch_size=1)
        timing.p50.FromMicroseconds(16_000)
        timing.p99.FromMicroseconds(21_000)
        timing.expected_p50.FromMicroseconds(15_000)
        timing.expected_p90.FromMicroseconds(17_000)
        self.ready.admission_margin.FromMicroseconds(700)
        self.failed = pb.Model(name="raptor", version=2, state=pb.MODEL_STATE_FAILED, status_message="corrupt")

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:  # noqa: N802
        return pb.ListModelsResponse(models=[m for m in (self.ready, self.failed) if request.name in ("", m.name)])

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:  # noqa: N802
        if request.name != "nanodet":
            abort(context, WireError("NOT_FOUND", "MODEL_NOT_FOUND", model=request.name))
        return pb.GetModelResponse(model=self.ready)

    def LoadModel(self, request: pb.LoadModelRequest, context: grpc.ServicerContext) -> pb.LoadModelResponse:  # noqa: N802
        if request.name == "raptor":
            abort(context, WireError("FAILED_PRECONDITION", "CORRUPT_MODEL"))
        return pb.LoadModelResponse(model=self.ready)

    def UnloadModel(self, request: pb.UnloadModelRequest, context: grpc.ServicerContext) -> pb.UnloadModelResponse:  # noqa: N802
        return pb.UnloadModelResponse(models=[self.ready])


def test_models_are_values(serve: Serve) -> None:
    with Client(serve(Models()).target) as client:
        nanodet, raptor = client.models()
        assert client.models("raptor") == (raptor,)
        assert client.model("nanodet") == client.load("nanodet") == nanodet
        assert client.unload("nanodet") == (nanodet,)
        with pytest.raises(ModelNotFound) as missing:
            client.model("resnet")
        with pytest.raises(FailedPrecondition) as corrupt:
            client.load("raptor")
    assert (raptor.state, raptor.status_message) == (ModelState.FAILED, "corrupt")
    assert nanodet.state is ModelState.READY
    assert nanodet.inputs == (TensorInfo(name="frame", data_type="UINT8", dims=(-1, -1, 3)),)
    assert str(nanodet.inputs[0]) == "frame UINT8[batch, ?, ?, 3]"
    assert nanodet.labels_by_output == {"classes": ("person",)}
    assert (nanodet.max_batch_size, nanodet.batch_buckets) == (4, (1, 4))
    assert (nanodet.timings[0].p50_us, nanodet.timings[0].p99_us) == (16_000, 21_000)
    assert (nanodet.timings[0].expected_p50_us, nanodet.timings[0].expected_p90_us) == (15_000, 17_000)
    assert nanodet.admission_margin_us == 700
    assert dict(nanodet.engine_properties) == {"INFERENCE_PRECISION_HINT": "f32"}
    assert missing.value.metadata["model"] == "resnet"
    assert corrupt.value.reason == "CORRUPT_MODEL"


def test_the_client_reads_well(node: FakeNode) -> None:
    with Client(node.target) as client:
        assert repr(client) == f"<Client {node.target}>"
        client.wait_until_connected()


def test_ending_the_client_ends_the_call_of_another_thread(node: FakeNode) -> None:
    from concurrent.futures import ThreadPoolExecutor

    release = Event()
    node.answer = lambda request: echo(request) if release.wait(30) else b""
    with ThreadPoolExecutor(1) as pool:
        client = Client(node.target)
        waiting = pool.submit(client.predict, "m", {"x": FRAME}, deadline_s=20)
        assert wait_until(lambda: bool(node.requests))
        client.close()
        with pytest.raises(Cancelled):
            waiting.result(timeout=30)
        release.set()
