"""Envoy's protobuf messages: the type URLs of discovery, and plain resources made into messages.

A plain resource names its extensions by `@type`; the parser finds them only among imported modules, so the list of
what we use is here. What a test of the gateway's configuration accepts, this list covers.
"""

from __future__ import annotations

import importlib
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from mesh.gateway import Resource

_PREFIX = "type.googleapis.com/"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTES = _PREFIX + "envoy.config.route.v3.RouteConfiguration"

PUSH_ORDER = (CLUSTER, ENDPOINTS, LISTENER, ROUTES)
"""What others refer to goes first, so that nothing ever points at what is not there yet."""

_MESSAGES: dict[str, Any] = {
    CLUSTER: cluster_pb2.Cluster,
    ENDPOINTS: endpoint_pb2.ClusterLoadAssignment,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
}
_EXTENSIONS = (
    "access_loggers.grpc.v3.als",
    "common.matching.v3.extension_matcher",
    "filters.common.matcher.action.v3.skip_action",
    "filters.http.grpc_field_extraction.v3.config",
    "filters.http.header_mutation.v3.header_mutation",
    "filters.http.jwt_authn.v3.config",
    "filters.http.local_ratelimit.v3.local_rate_limit",
    "filters.http.lua.v3.lua",
    "filters.http.ratelimit.v3.rate_limit",
    "filters.http.rbac.v3.rbac",
    "filters.http.router.v3.router",
    "filters.network.http_connection_manager.v3.http_connection_manager",
    "http.early_header_mutation.header_mutation.v3.header_mutation",
    "load_balancing_policies.client_side_weighted_round_robin.v3.client_side_weighted_round_robin",
    "load_balancing_policies.least_request.v3.least_request",
    "load_balancing_policies.ring_hash.v3.ring_hash",
    "load_balancing_policies.round_robin.v3.round_robin",
    "load_balancing_policies.subset.v3.subset",
    "retry.host.previous_hosts.v3.previous_hosts",
    "transport_sockets.tls.v3.tls",
    "upstreams.http.v3.http_protocol_options",
)
for _extension in _EXTENSIONS:
    importlib.import_module(f"envoy.extensions.{_extension}_pb2")
importlib.import_module("envoy.type.matcher.v3.http_inputs_pb2")


def parse_resource(type_url: str, resource: Resource) -> Message:
    """Returns the message that a plain resource spells.

    Raises:
        json_format.ParseError: a field does not exist or an extension is not in the list above.
    """
    message: Message = _MESSAGES[type_url]()
    return json_format.ParseDict(resource, message)


def short_name(type_url: str) -> str:
    """Returns the message's name without its package, such as `Cluster`."""
    return type_url.rpartition(".")[2]
