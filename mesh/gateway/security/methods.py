"""Which methods need which scope. What is not listed needs `admin`: a new method is closed until somebody opens it."""

from __future__ import annotations

OPEN_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
"""Need a certificate and no token: load balancers ask for health, people list what there is."""

INFER_METHODS = (
    "/starling.predict.v1.PredictService/Predict",
    "/starling.predict.v1.PredictService/PredictStream",
    "/starling.predict.v1.ModelService/GetModel",
    "/starling.predict.v1.ModelService/ListModels",
    *(
        f"/inference.GRPCInferenceService/{method}"
        for method in (
            "ModelConfig",
            "ModelInfer",
            "ModelMetadata",
            "ModelReady",
            "ModelStatistics",
            "ModelStreamInfer",
            "RepositoryIndex",
            "ServerLive",
            "ServerMetadata",
            "ServerReady",
        )
    ),
)
"""Ask models and read about them; change nothing."""

FLEET_PREFIXES = ("/starling.coordinate.v1.", "/starling.state.v1.")
"""Missions, plans and the agents' state."""
