"""The gateway: Envoy's configuration as plain values, and starting Envoy with it."""

from mesh.gateway.bootstrap import GatewaySite, bootstrap
from mesh.gateway.clusters import LB_METADATA, NODES, SERVES, Balancer, Pool, nodes_cluster
from mesh.gateway.envoy import check_listen, envoy_program, explain_bind, find_envoy, wait_healthy
from mesh.gateway.listener import ACCESS_LOG, LISTENER, grpc_listener
from mesh.gateway.routes import (
    ROUTES,
    ModelRoute,
    Share,
    route_configuration,
    serves_model,
    serves_version,
)
from mesh.gateway.typed import Resource

__all__ = [
    "ACCESS_LOG",
    "LB_METADATA",
    "LISTENER",
    "NODES",
    "ROUTES",
    "SERVES",
    "Balancer",
    "GatewaySite",
    "ModelRoute",
    "Pool",
    "Resource",
    "Share",
    "bootstrap",
    "check_listen",
    "envoy_program",
    "explain_bind",
    "find_envoy",
    "grpc_listener",
    "nodes_cluster",
    "route_configuration",
    "serves_model",
    "serves_version",
    "wait_healthy",
]
