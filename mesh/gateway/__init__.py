"""The gateway: Envoy's configuration as plain values, and starting Envoy with it."""

from mesh.gateway.bootstrap import static_bootstrap
from mesh.gateway.clusters import load_assignment, nodes_cluster
from mesh.gateway.envoy import check_listen, envoy_program, find_envoy
from mesh.gateway.listener import grpc_listener
from mesh.gateway.routes import route_configuration
from mesh.gateway.typed import Resource

__all__ = [
    "Resource",
    "check_listen",
    "envoy_program",
    "find_envoy",
    "grpc_listener",
    "load_assignment",
    "nodes_cluster",
    "route_configuration",
    "static_bootstrap",
]
