"""The bootstrap: the file that Envoy starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mesh.gateway.clusters import load_assignment, nodes_cluster
from mesh.gateway.listener import grpc_listener
from mesh.gateway.routes import route_configuration
from mesh.gateway.security import SecurityPlan, further_clusters, secure_listener, secure_nodes
from mesh.gateway.typed import Resource, extension, socket_address
from mesh.weights import Endpoint
from services.host import Address

_CONNECTIONS_MAX = 10_000


def static_bootstrap(
    listen: Address, endpoints: Sequence[Endpoint], weights: Mapping[str, int], security: SecurityPlan | None = None
) -> Resource:
    """Returns an `envoy.config.bootstrap.v3.Bootstrap` with everything inside and no control plane.

    Args:
        listen: the gateway's address; port 0 takes a free one.
        endpoints: the nodes behind it.
        weights: weight by node name, each >= 1.
        security: who may call; plain text from everybody without it.
    """
    cluster = nodes_cluster(load_assignment(endpoints, weights))
    routes = route_configuration(cluster["name"])
    listener, clusters = grpc_listener(listen, routes), [cluster]
    if security is not None:
        listener = secure_listener(listener, security)
        clusters = [secure_nodes(cluster, security), *further_clusters(security)]
    return {
        "node": {"id": "gateway", "cluster": "starling"},
        # Loopback only: whoever reaches it can stop the gateway. Envoy writes the port it took into
        # a file.
        "admin": {"address": socket_address(Address("127.0.0.1", 0))},
        "static_resources": {"listeners": [listener], "clusters": clusters},
        "overload_manager": {
            "resource_monitors": [
                extension(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    {"max_active_downstream_connections": _CONNECTIONS_MAX},
                )
            ]
        },
    }
