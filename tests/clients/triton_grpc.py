"""Everything that users of `tritonclient.grpc` do, against the server that the first argument names."""

import queue
import sys
import uuid
from functools import partial

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, serialized_byte_size, shared_memory

TARGET = sys.argv[1]
X = np.array([[1, 2, 3]], np.float32)


def inputs(x=X, name="x"):
    one = triton.InferInput(name, list(x.shape), "FP32")
    one.set_data_from_numpy(x)
    return [one]


def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("was not refused")


def management(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("plus-one")
    assert client.is_model_ready("plus-one", "1")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata(as_json=True)
    assert server["name"] == "starling", server
    assert "statistics" in server["extensions"], server
    metadata = client.get_model_metadata("plus-one", as_json=True)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}], metadata
    config = client.get_model_config("plus-one", as_json=True)["config"]
    assert config["max_batch_size"] == 4, config
    assert config["input"][0]["dims"] == ["3"], config
    index = {one.name: one.state for one in client.get_model_repository_index().models}
    assert index["plus-one"] == "READY", index
    before = client.get_inference_statistics("plus-one").model_stats[0]
    for _ in range(3):
        client.infer("plus-one", inputs())
    after = client.get_inference_statistics("plus-one").model_stats[0]
    assert after.inference_count == before.inference_count + 3
    assert after.inference_stats.success.count == before.inference_stats.success.count + 3
    assert client.get_log_settings(as_json=True)["settings"]["log_info"]["bool_param"]
    client.update_log_settings({"log_verbose_level": 1})
    client.update_log_settings({"log_verbose_level": 0})
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"]["value"] == ["OFF"]
    code, text = refused(client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})
    assert code == "StatusCode.UNIMPLEMENTED", (code, text)


def repository(client):
    client.unload_model("other")
    assert not client.is_model_ready("other")
    code, _ = refused(client.infer, "other", inputs())
    # A node knows what is in its repository, a gateway what nodes have loaded.
    assert code in ("StatusCode.FAILED_PRECONDITION", "StatusCode.NOT_FOUND"), code
    client.load_model("other")
    assert client.is_model_ready("other")
    assert client.infer("other", inputs()).as_numpy("y").tolist() == [[2, 3, 4]]
    code, _ = refused(client.load_model, "other", config="{}")
    assert code == "StatusCode.UNIMPLEMENTED", code
    code, _ = refused(client.load_model, "nobody")
    assert code == "StatusCode.NOT_FOUND", code


def infer(client):
    result = client.infer("plus-one", inputs(), request_id="r1", model_version="1")
    assert result.as_numpy("y").tolist() == [[2, 3, 4]]
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("r1", "plus-one", "1")
    wanted = [triton.InferRequestedOutput("y")]
    result = client.infer("plus-one", inputs(), outputs=wanted, priority=1, timeout=5_000_000, client_timeout=5)
    assert result.as_numpy("y").tolist() == [[2, 3, 4]]
    best = client.infer("plus-one", inputs(), outputs=[triton.InferRequestedOutput("y", class_count=2)])
    assert [one.decode() for one in best.as_numpy("y").flatten()] == ["4.000000:2", "3.000000:1"], best.as_numpy("y")
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert np.array_equal(client.infer("plus-one", inputs(batch)).as_numpy("y"), batch + 1)
    for name, given, code in (
        ("nobody", inputs(), "StatusCode.NOT_FOUND"),
        ("plus-one", inputs(name="z"), "StatusCode.INVALID_ARGUMENT"),
        ("plus-one", inputs(np.zeros((1, 4), np.float32)), "StatusCode.INVALID_ARGUMENT"),
        ("plus-one", inputs(np.zeros((9, 3), np.float32)), "StatusCode.INVALID_ARGUMENT"),
    ):
        assert refused(client.infer, name, given)[0] == code
    code, text = refused(client.infer, "slow", inputs(np.zeros((1, 4), np.float32), "x0"), client_timeout=0.02)
    assert code in ("StatusCode.RESOURCE_EXHAUSTED", "StatusCode.DEADLINE_EXCEEDED"), (code, text)


def texts(client):
    metadata = client.get_model_metadata("texts")
    assert [(one.datatype, list(one.shape)) for one in metadata.inputs] == [("BYTES", [-1, -1])], metadata
    config = client.get_model_config("texts", as_json=True)["config"]
    assert config["input"][0]["data_type"] == "TYPE_STRING", config
    words = np.array([["ein", "zwölf"], ["", "x" * 3000]], object)
    given = triton.InferInput("x0", [2, 2], "BYTES")
    for array in (words, np.char.encode(words.astype(str))):
        given.set_data_from_numpy(array)
        answer = client.infer("texts", [given]).as_numpy("y0")
        assert answer.tolist() == [[word.encode() for word in row] for row in words.tolist()], answer
    key = f"/starling-{uuid.uuid4().hex}"
    packed = serialize_byte_tensor(words)
    size = serialized_byte_size(packed)
    region = shared_memory.create_shared_memory_region("words", key, 2 * size)
    try:
        shared_memory.set_shared_memory_region(region, [packed])
        client.register_system_shared_memory("words", key, 2 * size)
        given.set_shared_memory("words", size)
        wanted = triton.InferRequestedOutput("y0")
        wanted.set_shared_memory("words", size, offset=size)
        client.infer("texts", [given], outputs=[wanted])
        back = shared_memory.get_contents_as_numpy(region, np.object_, [2, 2], offset=size)
        assert back.tolist() == [[word.encode() for word in row] for row in words.tolist()], back
        client.unregister_system_shared_memory("words")
    finally:
        shared_memory.destroy_shared_memory_region(region)
    given.set_data_from_numpy(words)
    given._raw_content = given._raw_content[:-1]
    code, text = refused(client.infer, "texts", [given])
    assert code == "StatusCode.INVALID_ARGUMENT", (code, text)


def background(client):
    done = queue.Queue()
    keep = lambda result, error: done.put((result, error))  # noqa: E731
    for _ in range(8):
        client.async_infer("plus-one", inputs(), keep)
    for _ in range(8):
        result, error = done.get(timeout=10)
        assert error is None, error
        assert result.as_numpy("y").tolist() == [[2, 3, 4]]
    call = client.async_infer("slow", inputs(np.zeros((1, 4), np.float32), "x0"), keep)
    call.cancel()
    result, error = done.get(timeout=10)
    assert result is None
    assert error.status() == "StatusCode.CANCELLED", error


def stream(client):
    done = queue.Queue()
    client.start_stream(partial(lambda seen, result, error: seen.put((result, error)), done))
    for number in range(5):
        client.async_stream_infer("plus-one", inputs(X + number), request_id=str(number))
    client.async_stream_infer("nobody", inputs(), request_id="wrong")
    client.async_stream_infer("plus-one", inputs(), request_id="last")
    answers = [done.get(timeout=10) for _ in range(7)]
    good = [result for result, error in answers if error is None]
    assert [one.get_response().id for one in good] == ["0", "1", "2", "3", "4", "last"], answers
    assert [one.as_numpy("y")[0, 0] for one in good] == [2, 3, 4, 5, 6, 2]
    (error,) = [error for _, error in answers if error is not None]
    assert "nobody" in str(error), error
    client.stop_stream()
    client.start_stream(partial(lambda seen, result, error: seen.put((result, error)), done))
    client.async_stream_infer("slow", inputs(np.zeros((1, 4), np.float32), "x0"))
    client.stop_stream(cancel_requests=True)


def regions(client):
    key = f"/starling-{uuid.uuid4().hex}"
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    region = shared_memory.create_shared_memory_region("io", key, 24)
    try:
        shared_memory.set_shared_memory_region(region, [X])
        client.register_system_shared_memory("io", key, 24)
        status = client.get_system_shared_memory_status(as_json=True)["regions"]["io"]
        assert (status["key"], status["byte_size"]) == (key, "24"), status
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_shared_memory("io", 12)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("io", 12, offset=12)
        client.infer("plus-one", [given], outputs=[wanted])
        assert shared_memory.get_contents_as_numpy(region, np.float32, [1, 3], offset=12).tolist() == [[2, 3, 4]]
        given.set_shared_memory("io", 12, offset=16)
        code, text = refused(client.infer, "plus-one", [given])
        assert code == "StatusCode.INVALID_ARGUMENT", (code, text)
        client.unregister_system_shared_memory("io")
        assert not client.get_system_shared_memory_status(as_json=True).get("regions")
        assert not client.get_cuda_shared_memory_status(as_json=True).get("regions")
    finally:
        shared_memory.destroy_shared_memory_region(region)
    code, _ = refused(client.register_cuda_shared_memory, "gpu", b"aGFuZGxl", 0, 24)
    assert code == "StatusCode.UNIMPLEMENTED", code


def main():
    steps = (management, repository, infer, texts, background, stream, regions)
    with triton.InferenceServerClient(TARGET) as client:
        for step in steps:
            step(client)
    print(*(step.__name__ for step in steps))


if __name__ == "__main__":
    main()
