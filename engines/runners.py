"""Runs ONNX models from memory, slowly and simply: for measuring models, not for serving them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino

Array = npt.NDArray[Any]
# Takes inputs by name, returns outputs by name.
Runner = Callable[[Mapping[str, Array]], dict[str, Array]]


def onnxruntime_runner(model: onnx.ModelProto) -> Runner:
    """Returns `model` on one thread of ONNX Runtime: the numeric reference of every converter."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run


def openvino_runner(model: onnx.ModelProto) -> Runner:
    """Returns `model` on one thread of OpenVINO, with the properties that the node serves it with."""
    core = openvino.Core()
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", properties)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        outputs = compiled(dict(inputs))
        return {name: np.array(value) for port, value in outputs.items() for name in port.names}

    return run


# The runtimes that an INT8 model must agree with FP32 on; the first one serves it.
RUNTIMES: Mapping[str, Callable[[onnx.ModelProto], Runner]] = {
    "openvino": openvino_runner,
    "onnxruntime": onnxruntime_runner,
}
