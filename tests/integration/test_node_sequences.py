"""State that a node keeps between the requests of a sequence: a graph of two additions, and Silero VAD itself.

Model `sum` answers y = h + x and leaves h = 2 h + x + 1, so that an answer depends on every step before it and on
their order.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random

import grpc
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from starling.inference.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse

from engines import DataType
from engines.assets import Cache, default_root, pull
from engines.assets.packages import SILERO_GRAPH, SPEECH
from engines.assets.progress import SilentProgress
from engines.assets.registries import RegistryClients
from engines.assets.silero import listen_to_original, read_recording
from engines.runners import onnxruntime_runner
from services.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InvalidInput,
    Prediction,
    PredictionError,
    Request,
    SequenceNotFound,
    SequencesFull,
)
from tests.support.infer_calls import STREAM_INFER, add_input, infer, set_parameters
from tests.support.node import RunningNode, running_node
from tests.support.node_calls import raw_method, refused, tensor
from tests.support.node_models import accumulator, build_accumulator, identity, publish
from tests.support.waiting import wait_until

IDLE_S = 0.3
F32 = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    root = tmp_path_factory.mktemp("sequences")
    graph = build_accumulator()
    publish(root / "models", accumulator("sum"), onnx_file=graph)
    publish(root / "models", accumulator("few", sequences_max=2), onnx_file=graph)
    publish(root / "models", accumulator("brief", idle_us=round(IDLE_S * 1e6)), onnx_file=graph)
    slow = identity("slow", (DataType.FP32, (1,)), delay_us=60_000)
    publish(root / "models", replace(slow, states=accumulator("sum").states))
    publish(root / "models", identity("stateless", (DataType.FP32, (1,))))
    with running_node(root, root / "models") as node:
        yield node


def step(
    client: Client, value: float, sequence: str, *, start: bool = False, end: bool = False, model: str = "sum"
) -> float:
    answer = client.predict(
        model,
        {"x0": np.full((1, 1), value, np.float32)},
        deadline_s=10,
        sequence_id=sequence,
        sequence_start=start,
        sequence_end=end,
    )
    assert list(answer.outputs) == ["y0"]
    return float(answer["y0"][0, 0])


class Alone:
    """The same model with one sequence."""

    def __init__(self) -> None:
        self.state = 0.0

    def step(self, value: float) -> float:
        heard = self.state + value
        self.state = 2 * self.state + value + 1
        return heard


def test_interleaved_sequences_equal_each_alone(node: RunningNode) -> None:
    rng = Random(3)
    alone = [Alone() for _ in range(5)]
    begun: set[int] = set()
    with Client(node.target) as client:
        for _ in range(60):
            at = rng.randrange(len(alone))
            value = float(rng.randrange(5))
            if rng.random() < 0.1:
                begun.discard(at)
            if at not in begun:
                alone[at] = Alone()
            assert step(client, value, f"s{at}", start=at not in begun) == alone[at].step(value)
            begun.add(at)


def test_agents_see_no_states(node: RunningNode) -> None:
    with Client(node.target) as client:
        found = client.model("sum")
    assert ([one.name for one in found.inputs], [one.name for one in found.outputs]) == (["x0"], ["y0"])
    assert found.stateful
    hidden = PredictRequest(
        model_name="sum",
        inputs=[tensor("x0", (1, 1)), tensor("h", (1, 1))],
        sequence_id="a",
        sequence_start=True,
    )
    with grpc.insecure_channel(node.target) as channel:
        refusal = refused(lambda: raw_method(channel)(hidden.SerializeToString()))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert '"h" is not one of them' in refusal.text


def test_a_sequence_ends_and_can_begin_again(node: RunningNode) -> None:
    with Client(node.target) as client:
        assert [step(client, 1, "again", start=True), step(client, 1, "again", end=True)] == [1, 3]
        with pytest.raises(SequenceNotFound, match="has ended") as caught:
            step(client, 1, "again")
        assert (caught.value.status, caught.value.metadata["sequence_id"]) == ("INVALID_ARGUMENT", "again")
        assert step(client, 1, "again", start=True) == 1
        assert step(client, 1, "again", start=True) == 1
        assert step(client, 1, "once", start=True, end=True) == 1
        with pytest.raises(SequenceNotFound):
            step(client, 1, "never begun")


def test_a_request_that_is_no_step_says_what_is_missing(node: RunningNode) -> None:
    x = {"x0": np.zeros((1, 1), np.float32)}
    with Client(node.target) as client:
        with pytest.raises(InvalidInput, match=r"keeps state for each sequence.*set sequence_id"):
            client.predict("sum", x)
        with pytest.raises(InvalidInput, match="without sequence_id; name the sequence"):
            client.predict("sum", x, sequence_start=True)
        with pytest.raises(InvalidInput, match="a step is one row, got 2"):
            client.predict("sum", {"x0": np.zeros((2, 1), np.float32)}, sequence_id="a", sequence_start=True)
        with pytest.raises(InvalidInput, match="leave stream_id out"):
            client.predict("sum", x, sequence_id="a", sequence_start=True, stream_id="camera")
        # What keeps no state has no use for the name.
        assert client.predict("stateless", x, sequence_id="a").model == "stateless"


def test_tenants_have_their_own_sequences(node: RunningNode) -> None:
    def call(tenant: str, *, start: bool) -> float:
        request = PredictRequest(
            model_name="sum",
            inputs=[tensor("x0", (1, 1), data=np.float32(1).tobytes())],
            sequence_id="shared name",
            sequence_start=start,
        )
        reply = raw_method(channel)(request.SerializeToString(), metadata=(("x-tenant", tenant),))
        return float(np.frombuffer(PredictResponse.FromString(reply).outputs[0].data, np.float32)[0])

    with grpc.insecure_channel(node.target) as channel:
        assert call("one", start=True) == 1
        assert refused(lambda: call("two", start=False)).reason == "SEQUENCE_NOT_FOUND"
        assert call("two", start=True) == 1
        assert call("one", start=False) == 3


def test_no_more_sequences_are_kept_than_configured(node: RunningNode) -> None:
    with Client(node.target) as client:
        for name in ("a", "b"):
            step(client, 1, name, start=True, model="few")
        with pytest.raises(SequencesFull, match="2 sequences are kept already, at most 2") as caught:
            step(client, 1, "c", start=True, model="few")
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        assert 0 < (caught.value.retry_delay_s or 0) <= 60
        assert step(client, 1, "a", end=True, model="few") == 3
        assert step(client, 1, "c", start=True, model="few") == 1


def kept(node: RunningNode, model: str) -> float:
    return node.count("starling_sequences", model=model)


def test_idle_sequences_are_forgotten(node: RunningNode) -> None:
    with Client(node.target) as client:
        step(client, 1, "a", start=True, model="brief")
        assert wait_until(lambda: kept(node, "brief") == 0)
        assert node.count("starling_sequences_expired_total", model="brief") == 1
        with pytest.raises(SequenceNotFound, match="was idle"):
            step(client, 1, "a", model="brief")


def test_a_refused_step_leaves_the_state_as_it_was(node: RunningNode) -> None:
    with Client(node.target) as client:
        assert step(client, 1, "gap", start=True) == 1
        with pytest.raises((DeadlineUnmeetable, DeadlineExceeded)):
            client.predict("sum", {"x0": np.ones((1, 1), np.float32)}, budget_s=1e-6, sequence_id="gap")
        with pytest.raises(InvalidInput):
            client.predict("sum", {"x0": np.ones((1, 7), np.float32)}, sequence_id="gap")
        assert step(client, 1, "gap") == 3


def test_an_alternative_does_not_take_the_step(node: RunningNode) -> None:
    with Client(node.target) as client:
        step(client, 1, "ladder", start=True)
        x = {"x0": np.full((1, 1), 9, np.float32)}
        client.predict("slow", x, deadline_s=10, sequence_id="ladder", sequence_start=True)
        answer = client.predict(
            "slow",
            x,
            deadline_s=10,
            budget_s=0.03,  # half a run
            sequence_id="ladder",
            sequence_start=True,
            allow=["stateless"],
        )
        assert (answer.degraded_to, answer["y0"].tolist()) == ("stateless", [[9]])
        with pytest.raises(SequenceNotFound):  # its start was not answered by the model itself
            step(client, 1, "ladder", model="slow")
        assert step(client, 1, "ladder") == 3


async def test_steps_sent_ahead_run_in_order(node: RunningNode) -> None:
    async def requests() -> AsyncIterator[Request]:
        for at in range(1000):
            yield Request(
                model="sum",
                inputs={"x0": np.full((1, 1), at % 3, np.float32)},
                sequence_id="ahead",
                sequence_start=at % 20 == 0,
                sequence_end=at == 999,
            )

    async with AsyncClient(node.target) as client:
        stream = client.predict_stream(requests(), in_flight_max=16, deadline_s=20)
        answers: list[Prediction | PredictionError] = [answer async for answer in stream]
    alone = Alone()
    for at, answer in enumerate(answers):
        if at % 20 == 0:
            alone = Alone()
        assert isinstance(answer, Prediction), answer
        assert answer["y0"][0, 0] == np.float32(alone.step(at % 3))


async def test_a_cancelled_step_does_not_hold_up_its_sequence(node: RunningNode) -> None:
    x = {"x0": np.ones((1, 1), np.float32)}
    async with AsyncClient(node.target) as client:
        await client.predict("slow", x, deadline_s=10, sequence_id="cancelled", sequence_start=True)
        running = asyncio.create_task(client.predict("slow", x, deadline_s=10, sequence_id="cancelled"))
        waiting = asyncio.create_task(client.predict("slow", x, deadline_s=10, sequence_id="cancelled"))
        await asyncio.sleep(0)
        for task in (running, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # The line is not stuck behind them.
        await client.predict("slow", x, deadline_s=10, sequence_id="cancelled", sequence_end=True)


@pytest.fixture(scope="module")
def cache() -> Cache:
    found = Cache(default_root(os.environ))
    for _ in pull(["silero-vad"], found, RegistryClients(), SilentProgress()):
        pass
    return found


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory, cache: Cache) -> Iterator[RunningNode]:
    with running_node(tmp_path_factory.mktemp("ears"), cache.repository.root, "--model", "silero-vad") as node:
        yield node


def test_silero_hears_what_the_original_graph_hears(ears: RunningNode, cache: Cache) -> None:
    """Eight callers at once, each with a recording of its own; the reference runs each one alone, step by step."""
    raw = [cache.read(member) for member in (SILERO_GRAPH, *SPEECH)]
    graph, *recordings = [one for one in raw if one is not None]
    run = onnxruntime_runner(onnx.load_model_from_string(graph))
    chunks = [read_recording(one) for one in recordings]
    sounds = [*chunks, *(one[::-1] for one in chunks[:3])]
    expected = [listen_to_original(run, one) for one in sounds]

    with Client(ears.target) as client:

        def listen(at: int) -> tuple[F32, int]:
            heard, largest = [], 0
            for number, chunk in enumerate(sounds[at]):
                answer = client.predict(
                    "silero-vad",
                    {"audio": chunk[None]},
                    deadline_s=10,
                    sequence_id=f"microphone-{at}",
                    sequence_start=number == 0,
                    sequence_end=number == len(sounds[at]) - 1,
                )
                heard.append(answer["speech"][0, 0])
                largest = max(largest, answer.batch_size)
            return np.asarray(heard, np.float32), largest

        with ThreadPoolExecutor(len(sounds)) as pool:
            results = list(pool.map(listen, range(len(sounds))))
    for (heard, _), wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(heard, wanted, atol=1e-4)
    assert max(largest for _, largest in results) > 1  # sequences shared batches
    spoken = [float(one.mean()) for one in expected[: len(SPEECH)]]
    assert min(spoken[:2]) > 0.4  # "front centre", "front left"
    assert spoken[2] < 0.1  # noise
    assert kept(ears, "silero-vad") == 0


def test_the_open_inference_protocol_names_sequences_with_parameters(node: RunningNode) -> None:
    """By number or text; the same sequences as those of Predict."""

    def ask(name: int | str, value: float, **parameters: bool) -> ModelInferRequest:
        request = ModelInferRequest(model_name="sum", id=str(name))
        add_input(request, "x0", "FP32", (1, 1), np.float32(value).tobytes())
        set_parameters(request.parameters, {"sequence_id": name, **parameters})
        return request

    def hear(response: ModelInferResponse) -> float:
        assert [one.name for one in response.outputs] == ["y0"]
        return float(np.frombuffer(response.raw_output_contents[0], np.float32)[0])

    names: tuple[int | str, ...] = (7, "seven", 8)
    alone = {name: Alone() for name in names}
    with node.connect() as channel, Client(node.target) as client:
        for at in range(5):
            for number, name in enumerate(names):
                answer = hear(infer(channel, ask(name, at + number, sequence_start=at == 0)))
                assert answer == alone[name].step(at + number)
        assert step(client, 1, "7") == alone[7].step(1)
        assert hear(infer(channel, ask("seven", 2, sequence_end=True))) == alone["seven"].step(2)
        refusal = refused(lambda: infer(channel, ask("seven", 1)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SEQUENCE_NOT_FOUND")

        ahead = {name: Alone() for name in (1, 2)}
        requests = [
            ask(name, at * name, sequence_start=at == 0, sequence_end=at == 19) for at in range(20) for name in ahead
        ]
        call = channel.stream_stream(
            STREAM_INFER, ModelInferRequest.SerializeToString, ModelStreamInferResponse.FromString
        )
        answers = [answer.infer_response for answer in call(iter(requests), timeout=10)]
        assert [int(answer.id) for answer in answers] == [1, 2] * 20
        for number, answer in enumerate(answers):
            name = int(answer.id)
            assert hear(answer) == ahead[name].step(number // 2 * name)
