"""Sequences as users of `tritonclient.grpc` send them, against the server that the first argument names.

Model `sum` answers y0 = h + x0 and keeps h = 2 h + x0 + 1 for each sequence.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

TARGET = sys.argv[1]


def inputs(value):
    one = triton.InferInput("x0", [1, 1], "FP32")
    one.set_data_from_numpy(np.full((1, 1), value, np.float32))
    return [one]


def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("was not refused")


def alone(values):
    state, heard = 0.0, []
    for value in values:
        heard.append(state + value)
        state = 2 * state + value + 1
    return heard


def interleaved(client):
    names = [7, "seven", 8]  # numbers and texts
    values = {name: [at + number for at in range(6)] for number, name in enumerate(names)}
    heard = {name: [] for name in names}
    for at in range(6):
        for name in names:
            result = client.infer(
                "sum", inputs(values[name][at]), sequence_id=name, sequence_start=at == 0, sequence_end=at == 5
            )
            heard[name].append(float(result.as_numpy("y0")[0, 0]))
    assert heard == {name: alone(given) for name, given in values.items()}, heard


def stream(client):
    done = queue.Queue()
    client.start_stream(lambda result, error: done.put((result, error)))
    for at in range(20):
        for name in (1, 2):
            client.async_stream_infer(
                "sum",
                inputs(at * name),
                sequence_id=name,
                sequence_start=at == 0,
                sequence_end=at == 19,
                request_id=str(name),
            )
    heard = {"1": [], "2": []}
    for _ in range(40):
        result, error = done.get(timeout=10)
        assert error is None, error
        heard[result.get_response().id].append(float(result.as_numpy("y0")[0, 0]))
    client.stop_stream()
    assert heard == {str(name): alone([at * name for at in range(20)]) for name in (1, 2)}, heard


def refusals(client):
    for fields, says in (
        ({"sequence_id": 99}, "there is no sequence"),
        ({}, "keeps state for each sequence"),
    ):
        code, text = refused(client.infer, "sum", inputs(1), **fields)
        assert code == "StatusCode.INVALID_ARGUMENT", (code, text)
        assert says in text, text


def config(client):
    batching = client.get_model_config("sum", as_json=True)["config"]["sequence_batching"]
    assert batching["state"][0]["input_name"] == "h", batching
    metadata = client.get_model_metadata("sum", as_json=True)
    assert [one["name"] for one in metadata["inputs"] + metadata["outputs"]] == ["x0", "y0"], metadata


def main():
    steps = (interleaved, stream, refusals, config)
    with triton.InferenceServerClient(TARGET) as client:
        for step in steps:
            step(client)
    print(*(step.__name__ for step in steps))


if __name__ == "__main__":
    main()
