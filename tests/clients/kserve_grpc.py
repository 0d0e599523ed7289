"""KServe's own Python client."""

import asyncio
import sys

import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

X = np.array([[1, 2, 3]], np.float32)


async def main():
    client = InferenceGRPCClient(url=sys.argv[1], timeout=20)
    try:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("plus-one")
        for raw in (True, False):
            given = InferInput("x", [1, 3], "FP32")
            given.set_data_from_numpy(X, binary_data=raw)
            answer = await client.infer(InferRequest("plus-one", [given], request_id="r1"))
            assert answer.model_name == "plus-one", answer
            assert answer.outputs[0].as_numpy().tolist() == [[2, 3, 4]], answer
    finally:
        await client.close()
    print("kserve")


if __name__ == "__main__":
    asyncio.run(main())
