"""Prints what `tritonclient` knows of the Open Inference Protocol: each message, field, value and method as JSON.

Given the folder of our stubs, it prints what those know instead: both register package `inference`, so each needs a
process of its own.
"""

import json
import sys
from typing import Any

from google.protobuf import descriptor_pb2


def read_facts(*modules: Any) -> dict[str, Any]:
    """Returns facts by name: `Message/field`, `Enum/VALUE` or `Service/Method`."""
    facts: dict[str, Any] = {}

    def add_values(prefix: str, enumeration: Any) -> None:
        for value in enumeration.value:
            facts[f"{prefix}{enumeration.name}/{value.name}"] = value.number

    def add_fields(prefix: str, message: Any) -> None:
        name = f"{prefix}{message.name}"
        facts[name] = "map entry" if message.options.map_entry else "message"
        for enumeration in message.enum_type:
            add_values(f"{name}.", enumeration)
        for nested in message.nested_type:
            add_fields(f"{name}.", nested)
        for field in message.field:
            choice = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            facts[f"{name}/{field.name}"] = [field.number, field.type, field.label, field.type_name, choice]

    for module in modules:
        file = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
        facts[f"package {file.package}"] = file.syntax
        for enumeration in file.enum_type:
            add_values("", enumeration)
        for message in file.message_type:
            add_fields("", message)
        for service in file.service:
            for method in service.method:
                streams = [method.client_streaming, method.server_streaming]
                facts[f"{service.name}/{method.name}"] = [method.input_type, method.output_type, *streams]
    return facts


if len(sys.argv) > 1:
    sys.path.insert(0, sys.argv[1])
    from starling.inference import model_config_pb2, open_inference_pb2

    print(json.dumps(read_facts(model_config_pb2, open_inference_pb2)))
else:
    from tritonclient.grpc import model_config_pb2, service_pb2

    print(json.dumps(read_facts(model_config_pb2, service_pb2)))
