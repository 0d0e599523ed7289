"""Makes RAPTOR, a quadrotor policy that adapts in flight: a dense layer, a gated recurrent unit, a dense layer.

The recurrent state is an input and an output, so that the caller keeps it and any node can answer any step.

Source: Eschmann et al. 2025, "RAPTOR: A Foundation Policy for Quadrotor Control"; the gates are those of
Cho et al. 2014, with the reset gate applied after the hidden weights.
"""

import io

import h5py
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from engines.assets.graph import GraphBuilder
from engines.assets.making import Materials, report_errors
from engines.assets.packages import RAPTOR_CHECKPOINT
from engines.config import DataType, ModelConfig, TensorConfig
from engines.errors import CorruptModel
from engines.repository import Release
from engines.runners import RUNTIMES, Runner

OBSERVATION = 22  # position 3, rotation matrix 9, linear velocity 3, angular velocity 3, previous action 4
HIDDEN = 16
ACTION = 4
# Largest difference from the shipped roll-out that rounding explains; its actions are of order one.
ERROR_BAR = 1e-5

F32 = npt.NDArray[np.float32]


def make_raptor(materials: Materials) -> Release:
    """Returns the release of the policy; its manifest records the error over the shipped 500-step roll-out.

    Raises:
        CorruptModel: the checkpoint has another structure.
        QualityTooLow: the roll-out differs by more than `ERROR_BAR`.
    """
    raw = materials.contents[RAPTOR_CHECKPOINT]
    try:
        with h5py.File(io.BytesIO(raw), "r") as file:
            model = build_raptor(file)
            observations, actions = (
                _array(file, "example/input"),
                _array(file, "example/output"),
            )
            initial = _array(file, "actor/layers/1/initial_hidden_state/parameters")
    except (OSError, KeyError, ValueError) as error:
        raise CorruptModel(f"{RAPTOR_CHECKPOINT.path}: not the expected checkpoint ({error}); pull it again") from error
    with materials.progress.step(f"fly {materials.asset}", len(observations)) as report:
        errors = {
            runtime: rollout_error(build(model), observations, actions, initial) for runtime, build in RUNTIMES.items()
        }
        report(len(observations))
    rollout = {
        "what": "largest difference of an action from the checkpoint's own example",
        "steps": len(observations),
        **report_errors(materials, errors, bar=ERROR_BAR, reference="the shipped roll-out"),
    }
    return materials.release(describe(materials.asset), model, {"precision": "fp32", "rollout": rollout})


def describe(name: str) -> ModelConfig:
    """Returns the policy's configuration."""
    return ModelConfig(
        name=name,
        backend="openvino",
        # Ten microseconds a row: a batch costs little more than its largest row.
        max_batch_size=128,
        preferred_batch_sizes=(1, 8, 32),
        inputs=(
            TensorConfig("obs", DataType.FP32, (OBSERVATION,)),
            TensorConfig("h", DataType.FP32, (HIDDEN,)),
        ),
        outputs=(
            TensorConfig("action", DataType.FP32, (ACTION,)),
            TensorConfig("h_out", DataType.FP32, (HIDDEN,)),
        ),
        queue_max=4096,
    )


def build_raptor(file: "h5py.File") -> onnx.ModelProto:
    """Returns `obs` [batch, 22], `h` [batch, 16] -> `action` [batch, 4], `h_out` [batch, 16], all FP32."""

    def stored(path: str) -> str:
        array = _array(file, f"actor/layers/{path}/parameters")
        return builder.constant(array.reshape(-1) if "biases" in path else array)

    def gates(source: str, side: str) -> list[str]:
        all_three = builder.node(
            "Gemm",
            source,
            stored(f"1/weights_{side}"),
            stored(f"1/biases_{side}"),
            transB=1,
        )
        return builder.nodes("Split", 3, all_three, axis=1, num_outputs=3)

    builder = GraphBuilder("raptor")
    observation = builder.input("obs", TensorProto.FLOAT, ("batch", OBSERVATION))
    hidden = builder.input("h", TensorProto.FLOAT, ("batch", HIDDEN))
    dense = builder.node("Gemm", observation, stored("0/weights"), stored("0/biases"), transB=1)
    ours = gates(builder.node("Relu", dense), "input")
    theirs = gates(hidden, "hidden")
    reset = builder.node("Sigmoid", builder.node("Add", theirs[0], ours[0]))
    update = builder.node("Sigmoid", builder.node("Add", theirs[1], ours[1]))
    fresh = builder.node("Tanh", builder.node("Add", builder.node("Mul", reset, theirs[2]), ours[2]))
    kept = builder.node("Mul", update, builder.node("Sub", hidden, fresh))
    result = builder.node("Add", kept, fresh)
    action = builder.node("Gemm", result, stored("2/weights"), stored("2/biases"), transB=1)
    builder.output(action, "action", TensorProto.FLOAT, ("batch", ACTION))
    builder.output(result, "h_out", TensorProto.FLOAT, ("batch", HIDDEN))
    return builder.build()


def rollout_error(run: Runner, observations: F32, actions: F32, initial: F32) -> float:
    """Returns the largest difference of an action over a roll-out that feeds the state back.

    Args:
        run: the policy.
        observations: float32[steps, batch, 22].
        actions: float32[steps, batch, 4], what the checkpoint's authors got.
        initial: float32[16], the state before the first step.
    """
    hidden = np.tile(initial, (observations.shape[1], 1))
    error = 0.0
    for observation, expected in zip(observations, actions, strict=True):
        outputs = run({"obs": observation, "h": hidden})
        hidden = outputs["h_out"]
        error = max(error, float(np.abs(outputs["action"] - expected).max()))
    return error


def _array(file: "h5py.File", path: str) -> F32:
    return np.asarray(file[path][()], np.float32)
