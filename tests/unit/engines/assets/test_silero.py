"""Tests of the voice detector's graph, with random weights."""

import io
import wave

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import CorruptModel, parse_config, render_config
from engines.assets.making import Materials
from engines.assets.packages import SILERO_GRAPH
from engines.assets.progress import SilentProgress
from engines.assets.silero import (
    CHUNK,
    CONTEXT,
    HIDDEN,
    build_silero,
    describe,
    listen,
    make_silero,
    read_recording,
    read_weights,
)
from engines.runners import RUNTIMES

F32 = npt.NDArray[np.float32]
SHAPES = {
    "stft.forward_basis_buffer": (258, 1, 256),
    **{f"encoder.{at}.reparam_conv.bias": (width,) for at, width in enumerate((128, 64, 64, 128))},
    "encoder.0.reparam_conv.weight": (128, 129, 3),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.3.reparam_conv.weight": (128, 64, 3),
    "decoder.rnn.weight_ih": (512, 128),
    "decoder.rnn.weight_hh": (512, 128),
    "decoder.rnn.bias_ih": (512,),
    "decoder.rnn.bias_hh": (512,),
    "decoder.decoder.2.weight": (1, 128, 1),
    "decoder.decoder.2.bias": (1,),
}


def random_weights() -> dict[str, F32]:
    rng = np.random.default_rng(4)
    return {name: (rng.standard_normal(shape) * 0.05).astype(np.float32) for name, shape in SHAPES.items()}


def original(weights: dict[str, F32], branch: str = "then_branch") -> onnx.ModelProto:
    """A graph that keeps its weights where the published one does: in a branch, under long names."""
    constants = [
        helper.make_node("Constant", [], [f"If_0_then_branch__Inline_0__{name}"], value=numpy_helper.from_array(array))
        for name, array in weights.items()
    ]
    inner = helper.make_graph(constants, "branch", [], [])
    choice = helper.make_node("If", ["sr"], ["output"], **{branch: inner})
    return helper.make_model(helper.make_graph([choice], "vad", [], []))


def convolve(sound: F32, kernels: F32, stride: int) -> F32:
    """sound [channels, length], kernels [out, channels, width] -> [out, length']."""
    width = kernels.shape[2]
    starts = range(0, sound.shape[1] - width + 1, stride)
    windows = np.stack([sound[:, at : at + width] for at in starts])
    return np.einsum("tcw,ocw->ot", windows, kernels)


def hear(weights: dict[str, F32], chunks: F32) -> F32:
    """The network by its definition, in NumPy, one chunk after the other."""

    def sigmoid(x: F32) -> F32:
        return 1 / (1 + np.exp(-x))

    hidden, cell, context = np.zeros(HIDDEN), np.zeros(HIDDEN), np.zeros(CONTEXT)
    heard = []
    for chunk in chunks:
        sound = np.concatenate([context, chunk])
        context = chunk[-CONTEXT:]
        padded = np.concatenate([sound, sound[-2 : -2 - CONTEXT : -1]])
        parts = convolve(padded[None], weights["stft.forward_basis_buffer"], 128)
        features = np.hypot(parts[:129], parts[129:])
        for at, stride in enumerate((1, 2, 2, 1)):
            name = f"encoder.{at}.reparam_conv"
            features = convolve(np.pad(features, ((0, 0), (1, 1))), weights[f"{name}.weight"], stride)
            features = np.maximum(features + weights[f"{name}.bias"][:, None], 0)
        gates = weights["decoder.rnn.weight_ih"] @ features[:, 0] + weights["decoder.rnn.bias_ih"]
        gates = gates + weights["decoder.rnn.weight_hh"] @ hidden + weights["decoder.rnn.bias_hh"]
        admit, keep, candidate, show = np.split(gates, 4)
        cell = sigmoid(keep) * cell + sigmoid(admit) * np.tanh(candidate)
        hidden = sigmoid(show) * np.tanh(cell)
        logit = weights["decoder.decoder.2.weight"][0, :, 0] @ np.maximum(hidden, 0) + weights["decoder.decoder.2.bias"]
        heard.append(sigmoid(logit)[0])
    return np.asarray(heard, np.float32)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_steps_are_those_of_the_definition(runtime: str) -> None:
    weights = random_weights()
    chunks = np.random.default_rng(1).standard_normal((12, CHUNK)).astype(np.float32)
    heard = listen(RUNTIMES[runtime](build_silero(weights)), chunks)
    np.testing.assert_allclose(heard, hear(weights, chunks), atol=1e-5)
    assert np.ptp(heard) > 1e-4  # the steps differ


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rows_of_a_batch_are_strangers(runtime: str) -> None:
    run = RUNTIMES[runtime](build_silero(random_weights()))
    rng = np.random.default_rng(2)
    inputs = {
        "audio": rng.standard_normal((3, CHUNK)).astype(np.float32),
        "h": rng.standard_normal((3, 2, HIDDEN)).astype(np.float32),
        "context": rng.standard_normal((3, CONTEXT)).astype(np.float32),
    }
    together = run(inputs)
    for row in range(3):
        alone = run({name: array[row : row + 1] for name, array in inputs.items()})
        for name, array in alone.items():
            np.testing.assert_allclose(together[name][row], array[0], atol=1e-5)


def test_weights_are_those_of_the_branch_for_16_khz() -> None:
    weights = random_weights()
    found = read_weights(original(weights))
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], array) for name, array in weights.items())


def test_another_graph_is_refused_by_what_is_missing() -> None:
    weights = random_weights()
    with pytest.raises(CorruptModel, match=r"decoder\.rnn\.bias_hh.*pull it again"):
        read_weights(original({name: array for name, array in weights.items() if name != "decoder.rnn.bias_hh"}))
    with pytest.raises(CorruptModel, match=r"stft\.forward_basis_buffer"):
        read_weights(original(weights, branch="else_branch"))
    graph = original({}).SerializeToString()
    with pytest.raises(CorruptModel, match=r"silero_vad\.onnx: not the expected graph"):
        make_silero(Materials("silero-vad", {SILERO_GRAPH: graph}, "MIT", SilentProgress()))


def recording(*, channels: int = 1, rate: int = 48_000, seconds: float = 0.2) -> bytes:
    raw = io.BytesIO()
    with wave.open(raw, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.arange(int(rate * seconds) * channels, dtype="<i2").tobytes())
    return raw.getvalue()


def test_recordings_are_cut_into_chunks_at_16_khz() -> None:
    chunks = read_recording(recording())
    assert chunks.shape == (6, CHUNK)
    assert chunks[0, :3].tolist() == [0.0, 3 / 32768, 6 / 32768]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "cannot be read"),
        (b"RIFF and nothing else", "cannot be read"),
        (recording(channels=2), "has 2 channels at 48000 Hz"),
        (recording(rate=44_100), "expected one at a multiple of 16000"),
    ],
)
def test_other_sounds_are_refused(raw: bytes, says: str) -> None:
    with pytest.raises(CorruptModel, match=says):
        read_recording(raw)


def test_agents_see_sound_and_a_probability() -> None:
    config = describe("silero-vad")
    assert [(one.name, one.dims) for one in (*config.inputs, *config.outputs)] == [("audio", (512,)), ("speech", (1,))]
    assert parse_config(render_config(config)) == config
    model = build_silero(random_weights())
    names = {one.name for one in model.graph.input} | {one.name for one in model.graph.output}
    states = {name for one in config.states for name in (one.input_name, one.output_name)}
    assert names == {"audio", "speech"} | states
    assert all(one.type.tensor_type.elem_type == TensorProto.FLOAT for one in model.graph.input)
