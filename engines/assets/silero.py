"""Makes Silero VAD, which hears in 32 ms of sound whether somebody speaks, and remembers what it heard before.

The published graph chooses between two networks by a sample rate that it takes as an input, keeps its batch in the
second dimension of its state, and leaves it to the caller to put the last samples of one chunk before the next. Here
its weights for 16 kHz become a graph of one path: 512 samples in, one probability out, and two states that the node
keeps for each sequence.

Source: Silero Team, silero-vad 6.2. Magnitudes of a short-time Fourier transform (a fixed convolution), four
convolutions, an LSTM cell, a logistic unit.
"""

import io
import wave
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from engines.assets.graph import GraphBuilder
from engines.assets.making import Materials, report_errors
from engines.assets.packages import SILERO_GRAPH, SPEECH
from engines.config import DataType, ModelConfig, StateConfig, TensorConfig
from engines.errors import CorruptModel
from engines.repository import Release
from engines.runners import RUNTIMES, Runner, onnxruntime_runner

RATE_HZ = 16_000
CHUNK = 512  # samples of one step: 32 ms
CONTEXT = 64  # last samples of the chunk before
HIDDEN = 128
# Largest difference of a probability from the original graph that rounding explains, after any number of steps.
ERROR_BAR = 1e-4
_FFT, _HOP = 256, 128
_BINS = _FFT // 2 + 1
_STRIDES = (1, 2, 2, 1)
_SHAPES = {
    "stft.forward_basis_buffer": (2 * _BINS, 1, _FFT),
    "encoder.0.reparam_conv.weight": (128, _BINS, 3),
    "encoder.0.reparam_conv.bias": (128,),
    "encoder.1.reparam_conv.weight": (64, 128, 3),
    "encoder.1.reparam_conv.bias": (64,),
    "encoder.2.reparam_conv.weight": (64, 64, 3),
    "encoder.2.reparam_conv.bias": (64,),
    "encoder.3.reparam_conv.weight": (HIDDEN, 64, 3),
    "encoder.3.reparam_conv.bias": (HIDDEN,),
    "decoder.rnn.weight_ih": (4 * HIDDEN, HIDDEN),
    "decoder.rnn.weight_hh": (4 * HIDDEN, HIDDEN),
    "decoder.rnn.bias_ih": (4 * HIDDEN,),
    "decoder.rnn.bias_hh": (4 * HIDDEN,),
    "decoder.decoder.2.weight": (1, HIDDEN, 1),
    "decoder.decoder.2.bias": (1,),
}

F32 = npt.NDArray[np.float32]


def make_silero(materials: Materials) -> Release:
    """Returns the release; its manifest records the difference from the original graph over recorded speech.

    Raises:
        CorruptModel: the original graph or a recording has another structure.
        QualityTooLow: a probability differs by more than `ERROR_BAR`.
    """
    original = onnx.load_model_from_string(materials.contents[SILERO_GRAPH])
    model = build_silero(read_weights(original))
    recordings = [read_recording(materials.contents[member]) for member in SPEECH]
    chunks = sum(map(len, recordings))
    with materials.progress.step(f"listen with {materials.asset}", chunks) as report:
        expected = [listen_to_original(onnxruntime_runner(original), one) for one in recordings]
        errors = {
            runtime: max(
                float(np.abs(listen(build(model), one) - heard).max())
                for one, heard in zip(recordings, expected, strict=True)
            )
            for runtime, build in RUNTIMES.items()
        }
        report(chunks)
    speech = {
        "what": "largest difference of a probability from the original graph on ONNX Runtime",
        "steps": chunks,
        "speech_share": float(np.mean(np.concatenate(expected) > 0.5)),
        **report_errors(materials, errors, bar=ERROR_BAR, reference="the original graph"),
    }
    return materials.release(describe(materials.asset), model, {"precision": "fp32", "speech": speech})


def describe(name: str) -> ModelConfig:
    """Returns the configuration: agents see sound and a probability, the node keeps the rest."""
    sequences_max = 1024
    return ModelConfig(
        name=name,
        backend="openvino",
        max_batch_size=32,
        inputs=(TensorConfig("audio", DataType.FP32, (CHUNK,)),),
        outputs=(TensorConfig("speech", DataType.FP32, (1,)),),
        preferred_batch_sizes=(4, 16),
        queue_max=sequences_max,
        states=(
            StateConfig("h", "h_out", DataType.FP32, (2, HIDDEN)),
            StateConfig("context", "context_out", DataType.FP32, (CONTEXT,)),
        ),
        # A robot that is cut off for a moment goes on where it was; longer, and the room has changed.
        sequence_idle_us=10_000_000,
        sequences_max=sequences_max,
    )


def read_weights(model: onnx.ModelProto) -> dict[str, F32]:
    """Returns the weights of the 16 kHz network: the branch that the original graph takes when its rate is equal.

    Raises:
        CorruptModel: there is no such branch, or a weight is missing or has another shape.
    """
    choice = next((node for node in model.graph.node if node.op_type == "If"), None)
    branch = next((one.g for one in choice.attribute if one.name == "then_branch"), None) if choice else None
    weights: dict[str, F32] = {}
    for node in branch.node if branch else ():
        if node.op_type == "Constant":
            name = node.output[0].rpartition("__")[2]
            if name in _SHAPES:
                weights[name] = np.asarray(numpy_helper.to_array(node.attribute[0].t), np.float32)
    found = {name: array.shape for name, array in weights.items()}
    if found != _SHAPES:
        wrong = sorted(name for name, shape in _SHAPES.items() if found.get(name) != shape)
        raise CorruptModel(
            f"{SILERO_GRAPH.path}: not the expected graph; missing or of another shape: {', '.join(wrong)};"
            " pull it again"
        )
    return weights


def build_silero(weights: Mapping[str, F32]) -> onnx.ModelProto:
    """Returns the graph of one step: audio, h and context in; speech, h_out and context_out out."""
    g = GraphBuilder("silero-vad")
    audio = g.input("audio", TensorProto.FLOAT, ["batch", CHUNK])
    state = g.input("h", TensorProto.FLOAT, ["batch", 2, HIDDEN])
    context = g.input("context", TensorProto.FLOAT, ["batch", CONTEXT])
    sound = g.node("Concat", context, audio, axis=1)
    padded = g.node(
        "Pad", g.node("Unsqueeze", sound, g.integers(1)), g.integers(0, 0, 0, 0, 0, CONTEXT), mode="reflect"
    )
    parts = g.node("Conv", padded, g.constant(weights["stft.forward_basis_buffer"]), strides=[_HOP])
    real, imaginary = (
        g.node("Slice", parts, g.integers(begin), g.integers(begin + _BINS), g.integers(1)) for begin in (0, _BINS)
    )
    power = g.node("Add", g.node("Mul", real, real), g.node("Mul", imaginary, imaginary))
    features = g.node("Sqrt", power)
    for at, stride in enumerate(_STRIDES):
        name = f"encoder.{at}.reparam_conv"
        features = g.node("Conv", features, g.constant(weights[f"{name}.weight"]), strides=[stride], pads=[1, 1])
        g.add_bias(features, weights[f"{name}.bias"])
        features = g.node("Relu", features)
    hidden, cell = _build_lstm(g, g.node("Squeeze", features, g.integers(2)), state, weights)
    logit = g.node(
        "Gemm",
        g.node("Relu", hidden),
        g.constant(weights["decoder.decoder.2.weight"].reshape(1, HIDDEN)),
        g.constant(weights["decoder.decoder.2.bias"]),
        transB=1,
    )
    g.output(g.node("Sigmoid", logit), "speech", TensorProto.FLOAT, ["batch", 1])
    both = g.node(
        "Concat", g.node("Unsqueeze", hidden, g.integers(1)), g.node("Unsqueeze", cell, g.integers(1)), axis=1
    )
    g.output(both, "h_out", TensorProto.FLOAT, ["batch", 2, HIDDEN])
    tail = g.node("Slice", audio, g.integers(CHUNK - CONTEXT), g.integers(CHUNK), g.integers(1))
    g.output(tail, "context_out", TensorProto.FLOAT, ["batch", CONTEXT])
    return g.build()


def _build_lstm(g: GraphBuilder, features: str, state: str, weights: Mapping[str, F32]) -> tuple[str, str]:
    """Adds one step of an LSTM; returns its hidden and its cell state, FP32 [batch, 128] each.

    As two matrix products and what is between them instead of ONNX's LSTM, whose batch is not the first dimension.
    Gates are in the order of PyTorch: input, forget, candidate, output.
    """
    hidden, cell = (
        g.node("Squeeze", g.node("Slice", state, g.integers(at), g.integers(at + 1), g.integers(1)), g.integers(1))
        for at in (0, 1)
    )
    ours, theirs = (
        g.node("Gemm", value, g.constant(weights[f"decoder.rnn.weight_{name}"]), g.constant(bias), transB=1)
        for value, name, bias in (
            (features, "ih", weights["decoder.rnn.bias_ih"]),
            (hidden, "hh", weights["decoder.rnn.bias_hh"]),
        )
    )
    gates = g.nodes("Split", 4, g.node("Add", ours, theirs), axis=1, num_outputs=4)
    admit, keep, show = (g.node("Sigmoid", gates[at]) for at in (0, 1, 3))
    kept = g.node("Add", g.node("Mul", keep, cell), g.node("Mul", admit, g.node("Tanh", gates[2])))
    return g.node("Mul", show, g.node("Tanh", kept)), kept


def read_recording(raw: bytes) -> F32:
    """Returns float32[chunks, 512] at 16 kHz from a mono 16-bit WAV file of a multiple of that rate.

    Samples between are left out, as the authors of the network do it.

    Raises:
        CorruptModel: it is no such file.
    """
    try:
        with wave.open(io.BytesIO(raw)) as file:
            rate, layout = file.getframerate(), (file.getnchannels(), file.getsampwidth())
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError, ValueError) as error:
        raise CorruptModel(f"a recording of speech cannot be read ({error}); pull it again") from error
    if layout != (1, 2) or rate % RATE_HZ:
        raise CorruptModel(
            f"a recording has {layout[0]} channels at {rate} Hz; expected one at a multiple of {RATE_HZ}"
        )
    sound = samples[:: rate // RATE_HZ].astype(np.float32) / 32768
    return np.asarray(sound[: len(sound) // CHUNK * CHUNK].reshape(-1, CHUNK))


def listen(run: Runner, chunks: F32) -> F32:
    """Returns the probability of speech in each chunk of one recording, the states fed back."""
    state, context = np.zeros((1, 2, HIDDEN), np.float32), np.zeros((1, CONTEXT), np.float32)
    heard = []
    for chunk in chunks:
        outputs = run({"audio": chunk[None], "h": state, "context": context})
        state, context = outputs["h_out"], outputs["context_out"]
        heard.append(outputs["speech"][0, 0])
    return np.asarray(heard, np.float32)


def listen_to_original(run: Runner, chunks: F32) -> F32:
    """Returns what the original graph hears, called as its authors call it: the reference of everything here."""
    state, context = np.zeros((2, 1, HIDDEN), np.float32), np.zeros((1, CONTEXT), np.float32)
    heard = []
    for chunk in chunks:
        sound = np.concatenate([context, chunk[None]], axis=1)
        outputs = run({"input": sound, "state": state, "sr": np.array(RATE_HZ, np.int64)})
        state, context = outputs["stateN"], sound[:, -CONTEXT:]
        heard.append(outputs["output"][0, 0])
    return np.asarray(heard, np.float32)
