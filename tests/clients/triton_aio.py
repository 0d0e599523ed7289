"""The same with `tritonclient.grpc.aio`."""

import asyncio
import sys

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

X = np.array([[1, 2, 3]], np.float32)


def inputs(x=X, name="x"):
    one = triton.InferInput(name, list(x.shape), "FP32")
    one.set_data_from_numpy(x)
    return [one]


async def refused(call):
    try:
        await call
    except InferenceServerException as error:
        return error.status()
    raise AssertionError("was not refused")


async def management(client):
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("plus-one")
    assert (await client.get_server_metadata()).name == "starling"
    assert list((await client.get_model_metadata("plus-one")).inputs[0].shape) == [-1, 3]
    assert (await client.get_model_config("plus-one")).config.max_batch_size == 4
    assert "plus-one" in {one.name for one in (await client.get_model_repository_index()).models}
    assert (await client.get_inference_statistics()).model_stats
    await client.unload_model("other")
    assert not await client.is_model_ready("other")
    await client.load_model("other")
    assert await client.is_model_ready("other")
    assert await refused(client.load_model("nobody")) == "StatusCode.NOT_FOUND"


async def infer(client):
    answers = await asyncio.gather(*(client.infer("plus-one", inputs(X + n), request_id=str(n)) for n in range(8)))
    assert [one.as_numpy("y")[0, 0] for one in answers] == [n + 2 for n in range(8)]
    assert [one.get_response().id for one in answers] == [str(n) for n in range(8)]
    assert await refused(client.infer("nobody", inputs())) == "StatusCode.NOT_FOUND"
    late = client.infer("slow", inputs(np.zeros((1, 4), np.float32), "x0"))
    task = asyncio.ensure_future(late)
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
    raise AssertionError("was not cancelled")


async def stream(client):
    async def requests():
        for number in range(5):
            yield {"model_name": "plus-one", "inputs": inputs(X + number), "request_id": str(number)}

    seen = []
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        seen.append((result.get_response().id, float(result.as_numpy("y")[0, 0])))
    assert seen == [(str(number), number + 2.0) for number in range(5)], seen


async def main():
    steps = (management, infer, stream)
    async with triton.InferenceServerClient(sys.argv[1]) as client:
        for step in steps:
            await step(client)
    print(*(step.__name__ for step in steps))


if __name__ == "__main__":
    asyncio.run(main())
