"""A gateway without a control plane, for tests of single filters: a real Envoy before a node that mirrors requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from mesh.child import Child
from mesh.gateway import Resource, envoy_program, find_envoy, grpc_listener, nodes_cluster, route_configuration
from mesh.gateway.security.replies import local_replies
from mesh.gateway.typed import socket_address, typed
from mesh.supervisor import Supervisor
from services.host import Address

PREDICT = "/starling.predict.v1.PredictService/Predict"


class MirrorNode:
    """A node that answers with the request and remembers its headers.

    Attributes:
        port: where it listens.
        headers: of the last request.
    """

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        service, method = PREDICT[1:].split("/")
        self._server = grpc.aio.server(handlers=[grpc.method_handlers_generic_handler(service, {method: handler})])
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.headers = dict(context.invocation_metadata())
        return request

    async def __aenter__(self) -> MirrorNode:
        """Serves."""
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops."""
        await self._server.stop(None)


def grpc_cluster(name: str, port: int) -> Resource:
    """Returns a cluster of one gRPC server on this machine."""
    options = typed("upstreams.http.v3.HttpProtocolOptions", {"explicit_http_config": {"http2_protocol_options": {}}})
    endpoint = {"endpoint": {"address": socket_address(Address("127.0.0.1", port))}}
    return {
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


@asynccontextmanager
async def static_envoy(
    folder: Path, nodes: Resource, filters: Sequence[Resource] = (), clusters: Sequence[Resource] = ()
) -> AsyncIterator[Child]:
    """Starts Envoy with these filters before its router; yields its process.

    Args:
        folder: existing directory for its files.
        nodes: the cluster that it calls.
        filters: in their order.
        clusters: what the filters call.
    """
    listener = grpc_listener(Address("127.0.0.1", 0))
    config = listener["filter_chains"][0]["filters"][0]["typed_config"]
    config.pop("rds")
    config.update(route_config=route_configuration(), local_reply_config=local_replies())
    config["http_filters"][:0] = filters
    bootstrap = {
        "node": {"id": "gateway", "cluster": "starling"},
        "admin": {"address": socket_address(Address("127.0.0.1", 0))},
        "static_resources": {"listeners": [listener], "clusters": [nodes, *clusters]},
    }
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start([envoy_program(find_envoy(), bootstrap, folder)])
        yield child


@asynccontextmanager
async def static_gateway(
    folder: Path, node: MirrorNode, filters: Sequence[Resource], clusters: Sequence[Resource] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """Starts a gateway before one node; yields a channel to it. Arguments as for `static_envoy`."""
    nodes = grpc_cluster(nodes_cluster()["name"], node.port)
    async with (
        static_envoy(folder, nodes, filters, clusters) as child,
        grpc.aio.insecure_channel(child.facts["grpc"]) as channel,
    ):
        yield channel
