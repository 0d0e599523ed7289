"""Every method that a node serves from Python, by its full name."""

from __future__ import annotations

from google.rpc import error_details_pb2  # noqa: F401  # as below: tools can read the details of a refusal
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from starling.inference import open_inference_pb2
from starling.predict.v1 import model_service_pb2 as pb
from starling.predict.v1 import predict_service_pb2  # registers what reflection describes
from xds.service.orca.v3 import orca_pb2

from services.predict.control import Method
from services.predict.log_settings import LogSettings
from services.predict.model_service import ModelService
from services.predict.models import NodeModels
from services.predict.open_inference import OpenInference
from services.predict.reflection import Reflection
from services.predict.shared_memory import SharedMemoryService

_MODEL_SERVICE = "starling.predict.v1.ModelService"
_REFLECTION_SERVICES = (
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def control_methods(
    models: NodeModels, logs: LogSettings, memory: SharedMemoryService, *, grace_s: float
) -> dict[str, Method]:
    """Returns the methods of ModelService, of the Open Inference Protocol and of server reflection."""
    service = ModelService(models, grace_s=grace_s)
    methods = {
        f"/{_MODEL_SERVICE}/ListModels": Method(pb.ListModelsRequest, service.list_models),
        f"/{_MODEL_SERVICE}/GetModel": Method(pb.GetModelRequest, service.get_model),
        f"/{_MODEL_SERVICE}/LoadModel": Method(pb.LoadModelRequest, service.load_model),
        f"/{_MODEL_SERVICE}/UnloadModel": Method(pb.UnloadModelRequest, service.unload_model),
        **OpenInference(models, logs, grace_s=grace_s).methods(),
        **memory.methods(),
    }
    reflection = Reflection(
        (
            predict_service_pb2.DESCRIPTOR.services_by_name["PredictService"].full_name,
            _MODEL_SERVICE,
            open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            orca_pb2.DESCRIPTOR.services_by_name["OpenRcaService"].full_name,
            *_REFLECTION_SERVICES,
        )
    )
    answer = Method(reflection_pb2.ServerReflectionRequest, reflection.answer, streams=True)
    methods.update({f"/{name}/ServerReflectionInfo": answer for name in _REFLECTION_SERVICES})
    return methods
