"""The control side of the Open Inference Protocol: everything of it but inference and shared memory."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as package_version

from starling.inference import open_inference_pb2 as pb

from engines import InvalidInput
from services.predict.control import Method
from services.predict.log_settings import LogSettings, LogValue
from services.predict.models import ModelStatus, NodeModels, State
from services.predict.open_inference_messages import metadata_message, model_config_message, statistics_message

_SERVICE = "inference.GRPCInferenceService"

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "sequence",
    "statistics",
    "system_shared_memory",
    "logging",
)
"""What clients may rely on, in the protocol's words. Tracing and CUDA memory are not among them."""

_INDEX_STATES = {
    State.AVAILABLE: "UNAVAILABLE",
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.DRAINING: "UNLOADING",
    State.FAILED: "UNAVAILABLE",
    State.NOT_SERVING: "UNAVAILABLE",
}


class NotSupported(Exception):
    """The protocol has it, this node does not."""

    status = "UNIMPLEMENTED"
    reason = "NOT_SUPPORTED"


class OpenInference:
    """Answers the methods. Each takes and returns a message; errors carry status and reason words."""

    def __init__(self, models: NodeModels, logs: LogSettings, *, grace_s: float) -> None:
        self._models = models
        self._logs = logs
        self._grace_s = grace_s

    def methods(self) -> Mapping[str, Method]:
        """Returns the methods by their full names."""
        return {
            f"/{_SERVICE}/ServerLive": Method(pb.ServerLiveRequest, self.server_live),
            f"/{_SERVICE}/ServerReady": Method(pb.ServerReadyRequest, self.server_ready),
            f"/{_SERVICE}/ModelReady": Method(pb.ModelReadyRequest, self.model_ready),
            f"/{_SERVICE}/ServerMetadata": Method(pb.ServerMetadataRequest, self.server_metadata),
            f"/{_SERVICE}/ModelMetadata": Method(pb.ModelMetadataRequest, self.model_metadata),
            f"/{_SERVICE}/ModelConfig": Method(pb.ModelConfigRequest, self.model_config),
            f"/{_SERVICE}/ModelStatistics": Method(pb.ModelStatisticsRequest, self.model_statistics),
            f"/{_SERVICE}/RepositoryIndex": Method(pb.RepositoryIndexRequest, self.repository_index),
            f"/{_SERVICE}/RepositoryModelLoad": Method(pb.RepositoryModelLoadRequest, self.load),
            f"/{_SERVICE}/RepositoryModelUnload": Method(pb.RepositoryModelUnloadRequest, self.unload),
            f"/{_SERVICE}/TraceSetting": Method(pb.TraceSettingRequest, self.trace_setting),
            f"/{_SERVICE}/LogSettings": Method(pb.LogSettingsRequest, self.log_settings),
        }

    def server_live(self, _request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """Returns that the process answers."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Returns whether the start is over; a node that drains refuses the call."""
        return pb.ServerReadyResponse(ready=self._models.is_loaded)

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Returns whether a version answers; False for one that nobody knows."""
        found = self._models.loaded(_need(request.name), _version(request.version))
        return pb.ModelReadyResponse(ready=bool(found) and bool(found[-1].native["healthy"]))

    def server_metadata(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Returns what this is, and what works."""
        return pb.ServerMetadataResponse(
            name="starling", version=package_version("starling-mesh"), extensions=EXTENSIONS
        )

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Returns the tensors of a version that is loaded."""
        one = self._models.find_loaded(_need(request.name), _version(request.version))
        return metadata_message(one, [other.found.version for other in self._models.loaded(request.name)])

    def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """Returns the configuration of a version that is loaded, with its defaults filled in."""
        one = self._models.find_loaded(_need(request.name), _version(request.version))
        return pb.ModelConfigResponse(config=model_config_message(one.found))

    def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Returns the counters of a model, of all where none is named."""
        version = _version(request.version)
        if request.name:
            self._models.find_loaded(request.name, version)
        found = self._models.loaded(request.name, version)
        return pb.ModelStatisticsResponse(model_stats=map(statistics_message, found))

    def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Returns every version in the repository, or those that are ready."""
        _refuse_repository(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                _index_entry(status)
                for status in self._models.list()
                if status.state is State.READY or not request.ready
            ]
        )

    def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Loads what a model's version policy wants, again where the files have changed."""
        _refuse_repository(request.repository_name)
        for name in request.parameters:
            raise NotSupported(
                f'parameter "{name}" of RepositoryModelLoad would replace what the repository says; '
                "change config.pbtxt or the model's files and load again without it"
            )
        self._models.refresh(_need(request.model_name), grace_s=self._grace_s)
        return pb.RepositoryModelLoadResponse()

    def unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Unloads every version of a model; nothing depends on a model, so `unload_dependents` adds none."""
        _refuse_repository(request.repository_name)
        for name in request.parameters:
            if name != "unload_dependents":
                raise InvalidInput(
                    f'parameter "{name}" of RepositoryModelUnload is unknown; known: unload_dependents; leave it out'
                )
        self._models.unload(_need(request.model_name), grace_s=self._grace_s)
        return pb.RepositoryModelUnloadResponse()

    def trace_setting(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """Returns that nothing is traced; anything else cannot be set."""
        for name, given in request.settings.items():
            if list(given.value) not in ([], ["OFF"]) or name != "trace_level":
                raise NotSupported(
                    f'trace setting "{name}" cannot be set: this node does not trace requests. Answers say where their '
                    "time went, and the metrics have histograms of it"
                )
        return pb.TraceSettingResponse(settings={"trace_level": pb.TraceSettingResponse.SettingValue(value=["OFF"])})

    def log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """Changes what is logged from now on; returns all settings."""
        changes: dict[str, LogValue] = {}
        for name, given in request.settings.items():
            kind = given.WhichOneof("parameter_choice")
            if kind is not None:
                changes[name] = getattr(given, kind)
        response = pb.LogSettingsResponse()
        for name, value in self._logs.change(changes).items():
            setting = response.settings[name]
            if isinstance(value, bool):
                setting.bool_param = value
            elif isinstance(value, int):
                setting.uint32_param = value
            else:
                setting.string_param = value
        return response


def _need(name: str) -> str:
    if not name:
        raise InvalidInput("no model is named; give the name of a model, RepositoryIndex lists them")
    return name


def _version(text: str) -> int:
    """Returns a version; 0 for none."""
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 63):
        raise InvalidInput(f'version "{text}" is not a number; versions are 1, 2, ... in digits, empty for the highest')
    return int(text)


def _refuse_repository(name: str) -> None:
    if name:
        raise NotSupported(f'repository "{name}" cannot be named: a node has one repository; leave the name empty')


def _index_entry(status: ModelStatus) -> pb.RepositoryIndexResponse.ModelIndex:
    reason = status.message
    if not reason and status.state is State.AVAILABLE:
        reason = "not loaded"
    return pb.RepositoryIndexResponse.ModelIndex(
        name=status.name,
        version=str(status.version) if status.version else "",
        state=_INDEX_STATES[status.state],
        reason=reason,
    )
