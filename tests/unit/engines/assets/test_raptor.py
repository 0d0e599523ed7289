"""Tests of the quadrotor policy, on a checkpoint of random weights."""

import io

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from engines import CorruptModel
from engines.assets.errors import QualityTooLow
from engines.assets.making import Materials
from engines.assets.packages import RAPTOR_CHECKPOINT
from engines.assets.progress import SilentProgress
from engines.assets.raptor import ACTION, HIDDEN, OBSERVATION, make_raptor

F32 = npt.NDArray[np.float32]
STEPS, BATCH = 30, 2


def checkpoint(*, wrong_by: float = 0.0, without: str = "") -> bytes:
    rng = np.random.default_rng(5)
    shapes = {
        "0/weights": (HIDDEN, OBSERVATION),
        "0/biases": (1, HIDDEN),
        "1/weights_input": (3 * HIDDEN, HIDDEN),
        "1/biases_input": (3 * HIDDEN,),
        "1/weights_hidden": (3 * HIDDEN, HIDDEN),
        "1/biases_hidden": (3 * HIDDEN,),
        "1/initial_hidden_state": (HIDDEN,),
        "2/weights": (ACTION, HIDDEN),
        "2/biases": (1, ACTION),
    }
    arrays = {name: (rng.standard_normal(shape) * 0.3).astype(np.float32) for name, shape in shapes.items()}
    observations = rng.standard_normal((STEPS, BATCH, OBSERVATION)).astype(np.float32)
    actions = fly(arrays, observations)
    actions[-1, 0, 0] += wrong_by
    raw = io.BytesIO()
    with h5py.File(raw, "w") as file:
        for name, array in arrays.items():
            if name != without:
                file[f"actor/layers/{name}/parameters"] = array
        file["example/input"], file["example/output"] = observations, actions
    return raw.getvalue()


def fly(p: dict[str, F32], observations: F32) -> F32:
    """The policy by its definition: Cho et al. 2014 with the reset gate behind the hidden weights."""

    def sigmoid(x: F32) -> F32:
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)

    hidden = np.tile(p["1/initial_hidden_state"], (BATCH, 1))
    actions = []
    for observation in observations:
        dense = np.maximum(observation @ p["0/weights"].T + p["0/biases"], 0)
        ours = np.split(dense @ p["1/weights_input"].T + p["1/biases_input"], 3, axis=1)
        theirs = np.split(hidden @ p["1/weights_hidden"].T + p["1/biases_hidden"], 3, axis=1)
        reset, update = sigmoid(ours[0] + theirs[0]), sigmoid(ours[1] + theirs[1])
        fresh = np.tanh(ours[2] + reset * theirs[2])
        hidden = (1 - update) * fresh + update * hidden
        actions.append(hidden @ p["2/weights"].T + p["2/biases"])
    return np.array(actions, np.float32)


def materials(raw: bytes) -> Materials:
    return Materials("raptor", {RAPTOR_CHECKPOINT: raw}, "MIT", SilentProgress())


def test_roll_out_is_that_of_the_definition_on_every_runtime() -> None:
    release = make_raptor(materials(checkpoint()))
    rollout = release.report["rollout"]
    assert rollout["steps"] == STEPS
    assert max(rollout["openvino"], rollout["onnxruntime"]) < 1e-5
    assert [(one.name, one.dims) for one in release.config.inputs] == [("obs", (22,)), ("h", (16,))]
    assert [(one.name, one.dims) for one in release.config.outputs] == [("action", (4,)), ("h_out", (16,))]


def test_other_roll_out_is_not_published() -> None:
    with pytest.raises(QualityTooLow, match="it was not published"):
        make_raptor(materials(checkpoint(wrong_by=0.001)))


@pytest.mark.parametrize("raw", [b"", b"not a checkpoint", checkpoint(without="2/biases"), checkpoint()[:2000]])
def test_other_structure_is_refused(raw: bytes) -> None:
    with pytest.raises(CorruptModel, match="not the expected checkpoint"):
        make_raptor(materials(raw))
