"""Learning which model a call is for: its headers say so, or its first message does.

Clients of ours send the headers. For others the gateway reads the fields of the first message, which it has to hold
until it is complete, and sets the headers itself.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet, ServiceDescriptorProto
from starling.inference import open_inference_pb2
from starling.predict.v1 import model_service_pb2, predict_service_pb2

from mesh.gateway.typed import Resource, extension, typed

MODEL_HEADER = "x-model-name"
VERSION_HEADER = "x-model-version"
LABEL_HEADER = "x-model-label"
ALLOW_HEADER = "x-model-allow"
"""The first other model that will do, see `PredictRequest.allow`."""

DEFAULT_HEADER = "x-model-default"
"""What the gateway tells nodes: the version of a model, NAME:VERSION, for requests that name none."""

_EXTRACTION = "envoy.filters.http.grpc_field_extraction"
_COMPRESSED = "gzip|deflate|snappy|zstd"  # nothing can be read in those; they go to any node

_REQUEST = {MODEL_HEADER: "model_name", VERSION_HEADER: "model_version", ALLOW_HEADER: "allow.model_name"}
_STREAMED = {header: f"request.{path}" for header, path in _REQUEST.items()}
_INFER = {MODEL_HEADER: "model_name", VERSION_HEADER: "model_version"}
_READ = {MODEL_HEADER: "name", VERSION_HEADER: "version"}
_PREDICT = predict_service_pb2.DESCRIPTOR.services_by_name["PredictService"]
_MODELS = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
_OPEN = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
_PATHS: Mapping[Any, Mapping[str, str]] = {
    _PREDICT.methods_by_name["Predict"]: _REQUEST,
    _PREDICT.methods_by_name["PredictStream"]: _STREAMED,
    _MODELS.methods_by_name["GetModel"]: _READ,
    _OPEN.methods_by_name["ModelInfer"]: _INFER,
    _OPEN.methods_by_name["ModelStreamInfer"]: _INFER,
    _OPEN.methods_by_name["ModelMetadata"]: _READ,
    _OPEN.methods_by_name["ModelReady"]: _READ,
    _OPEN.methods_by_name["ModelConfig"]: _READ,
    _OPEN.methods_by_name["ModelStatistics"]: _READ,
}


def name_model() -> list[Resource]:
    """Returns the filters that set the headers of calls which come without them."""
    descriptors = build_descriptors().SerializeToString(deterministic=True)
    extractions: Resource = {
        method.full_name: {"request_field_extractions": {path: {} for path in paths.values()}}
        for method, paths in _PATHS.items()
    }
    read = extension(
        _EXTRACTION,
        "filters.http.grpc_field_extraction.v3.GrpcFieldExtractionConfig",
        {
            "descriptor_set": {"inline_bytes": base64.b64encode(descriptors).decode()},
            "extractions_by_method": extractions,
        },
    )
    tell = extension(
        "envoy.filters.http.lua",
        "filters.http.lua.v3.Lua",
        {"default_source_code": {"inline_string": _build_script()}},
    )
    return [_unless_named(read), _unless_named(tell)]


def build_descriptors() -> FileDescriptorSet:
    """Returns the descriptors of the methods above with nothing in them but the fields that are read."""
    wanted: dict[Descriptor, set[str]] = {}
    for method, paths in _PATHS.items():
        wanted.setdefault(method.output_type, set())
        for path in paths.values():
            message = method.input_type
            for name in path.split("."):
                wanted.setdefault(message, set()).add(name)
                message = message.fields_by_name[name].message_type
    found = FileDescriptorSet()
    for file in {descriptor.file.name: descriptor.file for descriptor in wanted}.values():
        entry = found.file.add(name=file.name, package=file.package, syntax="proto3")
        for descriptor, names in wanted.items():
            if descriptor.file is file:
                entry.message_type.append(_cut(descriptor, names))
        for service in file.services_by_name.values():
            whole = ServiceDescriptorProto()
            service.CopyToProto(whole)
            read = {method.name for method in _PATHS if method.containing_service is service}
            if read:
                entry.service.add(name=whole.name, method=[method for method in whole.method if method.name in read])
    return found


def _cut(descriptor: Descriptor, names: Collection[str]) -> DescriptorProto:
    whole = DescriptorProto()
    descriptor.CopyToProto(whole)
    cut = DescriptorProto(name=whole.name, field=[field for field in whole.field if field.name in names])
    for field in cut.field:
        field.ClearField("oneof_index")
        field.ClearField("proto3_optional")
    return cut


def _build_script() -> str:
    """Returns the Lua that makes headers of the fields; what is no name of a model is left to the nodes."""
    headers = {path: header for paths in _PATHS.values() for header, path in paths.items()}
    table = "".join(f'  ["{path}"] = "{header}",\n' for path, header in sorted(headers.items()))
    return (
        f"local HEADERS = {{\n{table}}}\n"
        "function envoy_on_request(handle)\n"
        f'  local fields = handle:streamInfo():dynamicMetadata():get("{_EXTRACTION}")\n'
        "  if fields == nil then return end\n"
        "  for path, values in pairs(fields) do\n"
        '    local value = values[1] or ""\n'
        '    if value ~= "0" and #value <= 128 and value:match("^[%w._-]+$") then\n'
        "      handle:headers():replace(HEADERS[path], value)\n"
        "    end\n"
        "  end\n"
        "  handle:clearRouteCache()\n"
        "end\n"
    )


def _unless_named(filter_: Resource) -> Resource:
    skip = {"action": {"name": "skip", "typed_config": typed("filters.common.matcher.action.v3.SkipFilter")}}
    matchers = [
        {"predicate": has_header(MODEL_HEADER), "on_match": skip},
        {"predicate": has_header("grpc-encoding", _COMPRESSED), "on_match": skip},
    ]
    return extension(
        "envoy.filters.http.match_delegate",
        "common.matching.v3.ExtensionWithMatcher",
        {"extension_config": filter_, "xds_matcher": {"matcher_list": {"matchers": matchers}}},
    )


def has_header(header: str, pattern: str = ".+") -> Resource:
    """Returns the predicate of calls whose header is like this all over."""
    value = {"safe_regex": {"google_re2": {}, "regex": pattern}}
    return {"single_predicate": {"input": header_input(header), "value_match": value}}


def header_input(header: str) -> Resource:
    """Returns the input of a matcher that looks at a header of the request."""
    config = {"@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": header}
    return {"name": header, "typed_config": config}
