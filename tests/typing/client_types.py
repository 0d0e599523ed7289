"""What type checkers say about the client; checked, never run."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from services.client import (
    AsyncClient,
    Client,
    DeadlineUnmeetable,
    ModelInfo,
    Prediction,
    PredictionError,
    QueueFull,
    Request,
    RetryPolicy,
    StarlingError,
    TensorInfo,
)

FRAME = np.zeros((1, 480, 640, 3), np.uint8)


def check_client() -> None:
    with Client("127.0.0.1:50051", retry=RetryPolicy(attempts_max=2)) as client:
        assert_type(client, Client)
        prediction = client.predict("nanodet", {"frame": FRAME}, deadline_s=0.1)
        assert_type(prediction, Prediction)
        assert_type(prediction["boxes"], npt.NDArray[np.generic])
        assert_type(prediction.outputs, Mapping[str, npt.NDArray[np.generic]])
        assert_type(prediction.round_trip_us, int)
        assert_type((prediction.batch_wait_us, prediction.predicted_us, prediction.slack_us), tuple[int, int, int])
        assert_type(client.models(), tuple[ModelInfo, ...])
        assert_type(client.model("nanodet").inputs, tuple[TensorInfo, ...])
        assert_type(client.load("nanodet"), ModelInfo)
        assert_type(client.unload("nanodet", 1), tuple[ModelInfo, ...])
        streamed = client.predict_stream([Request(model="nanodet", inputs={"frame": FRAME})], in_flight_max=4)
        assert_type(streamed, Generator[Prediction | PredictionError, None, None])
        client.predict("nanodet", {"frame": [1, 2]})  # type: ignore[dict-item]  # arrays only
        client.predict("nanodet", {"frame": FRAME}, deadline_s=None)  # type: ignore[arg-type]  # always bounded
        prediction.outputs["boxes"] = FRAME  # type: ignore[index]  # read-only
        prediction.node = "me"  # type: ignore[misc]  # frozen


async def check_async_client(requests: AsyncIterator[Request]) -> None:
    async with AsyncClient("127.0.0.1:50051") as client:
        assert_type(client, AsyncClient)
        assert_type(await client.predict("nanodet", {"frame": FRAME}), Prediction)
        assert_type(await client.models(), tuple[ModelInfo, ...])
        answers = client.predict_stream(requests)
        assert_type(answers, AsyncGenerator[Prediction | PredictionError, None])
        async for answer in answers:
            if isinstance(answer, PredictionError):
                assert_type(answer.to_error(), StarlingError)
            else:
                assert_type(answer, Prediction)


def check_errors(error: QueueFull) -> None:
    assert_type(error.retry_delay_s, float | None)
    assert_type(error.metadata, Any)  # type: ignore[assert-type]  # it is a mapping of texts, not anything
    assert_type(error.metadata["model"], str)


def check_unmeetable(error: DeadlineUnmeetable) -> None:
    assert_type(error.needed_s, float | None)
    assert_type(error.retry_delay_s, float | None)
