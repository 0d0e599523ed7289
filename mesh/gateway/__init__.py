"""The gateway: Envoy's configuration as plain values, and starting Envoy with it."""

from mesh.gateway.bootstrap import GatewaySite, bootstrap
from mesh.gateway.clusters import NODES, Balancer, nodes_cluster
from mesh.gateway.envoy import check_listen, envoy_program, find_envoy, wait_healthy
from mesh.gateway.listener import ACCESS_LOG, LISTENER, grpc_listener
from mesh.gateway.routes import ROUTES, route_configuration
from mesh.gateway.typed import Resource

__all__ = [
    "ACCESS_LOG",
    "LISTENER",
    "NODES",
    "ROUTES",
    "Balancer",
    "GatewaySite",
    "Resource",
    "bootstrap",
    "check_listen",
    "envoy_program",
    "find_envoy",
    "grpc_listener",
    "nodes_cluster",
    "route_configuration",
    "wait_healthy",
]
