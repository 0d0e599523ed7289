"""Answers each request with its input."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Identity(MLModel):  # type: ignore[misc]  # it is not in our environment
    """What MLServer loads."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answers one request."""
        (x,) = payload.inputs
        y = ResponseOutput(name="y", shape=x.shape, datatype=x.datatype, data=x.data)
        return InferenceResponse(model_name=self.name, outputs=[y])
