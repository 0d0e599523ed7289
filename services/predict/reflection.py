"""gRPC server reflection, so that grpcurl and other tools work against a node without our protos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2 as pb

_NOT_FOUND = 5


class Reflection:
    """Answers reflection requests from the descriptors of the generated protos.

    v1 and v1alpha are the same messages under two names, so one answer serves both.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services: Sequence[str] = sorted(services)
        self._pool = descriptor_pool.Default()
        register_reflection_v1(self._pool)

    def answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        """Returns the response to one message of the reflection stream; unknown names are in the response."""
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                for name in self._services:
                    response.list_services_response.service.add(name=name)
            elif kind == "file_by_filename":
                self._add(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                self._add(response, self._find_file(request.file_containing_symbol))
            else:
                raise KeyError(f"{kind or 'an empty request'}; our messages have no extensions")
        except KeyError as error:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = f"not found: {error.args[0]}"
        return response

    def _find_file(self, symbol: str) -> FileDescriptor:
        """Returns the file of a message, enumeration, service or, unlike the pool, of a method.

        Raises:
            KeyError: nothing is called so.
        """
        service, _, method = symbol.rpartition(".")
        with suppress(KeyError):
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file
        return self._pool.FindFileContainingSymbol(symbol)

    def _add(self, response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
        """Adds a file and everything it imports, imports first."""
        seen: dict[str, bytes] = {}

        def visit(current: FileDescriptor) -> None:
            if current.name in seen:
                return
            for dependency in current.dependencies:
                visit(dependency)
            seen[current.name] = current.serialized_pb

        visit(file)
        response.file_descriptor_response.file_descriptor_proto.extend(reversed(seen.values()))


def register_reflection_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Makes `grpc.reflection.v1` known to a pool: the same file as v1alpha under its later name.

    The Python package ships v1alpha only, and tools want the descriptor of every service that is listed.
    """
    try:
        pool.FindFileByName("grpc/reflection/v1/reflection.proto")
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
        file.name = "grpc/reflection/v1/reflection.proto"
        file.package = "grpc.reflection.v1"
        for message in file.message_type:
            for field in message.field:
                if field.HasField("type_name"):
                    field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
        for method in file.service[0].method:
            method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
            method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
        pool.Add(file)
