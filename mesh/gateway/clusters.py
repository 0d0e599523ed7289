"""Clusters: the nodes, how one is chosen, and how a bad one is noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.gateway.typed import Resource, extension, socket_address, typed
from mesh.weights import Endpoint

NODES = "nodes"

_REQUESTS_MAX = 4096
_STREAM_WINDOW_BYTES = 8 << 20  # one answer with a 1080p-sized tensor without waiting a round trip
_CONNECTION_WINDOW_BYTES = 32 << 20


def nodes_cluster(load_assignment: Resource | None = None) -> Resource:
    """Returns the `envoy.config.cluster.v3.Cluster` of all nodes.

    Args:
        load_assignment: the endpoints of a static cluster; without it they come over the aggregated
            discovery stream, and have to be sent again after every change of this resource.
    """
    return {
        "name": NODES,
        **_discovery(load_assignment),
        "connect_timeout": "1s",
        "load_balancing_policy": {"policies": [{"typed_extension_config": _least_request()}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _http2()},
        "common_lb_config": {
            # With three nodes one failure is already below the default 50 % and would send traffic
            # to dead nodes.
            "healthy_panic_threshold": {"value": 0},
        },
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _circuit_breakers(),
    }


def load_assignment(endpoints: Sequence[Endpoint], weights: Mapping[str, int]) -> Resource:
    """Returns the `envoy.config.endpoint.v3.ClusterLoadAssignment` of the nodes.

    All endpoints share one locality: inside it their weights compete with each other, across
        localities only with
    extra configuration.

    Args:
        endpoints: the nodes, in any order.
        weights: weight by node name, each >= 1; zero would make Envoy refuse the whole resource.
    """
    assert all(weights[e.name] >= 1 for e in endpoints), "an endpoint's weight is at least 1"
    return {
        "cluster_name": NODES,
        "endpoints": [
            {
                "lb_endpoints": [
                    {
                        "endpoint": {
                            "hostname": endpoint.name,
                            "address": socket_address(endpoint.address),
                        },
                        "load_balancing_weight": weights[endpoint.name],
                        "metadata": {
                            "filter_metadata": {"starling": {"node": endpoint.name, "tier": str(endpoint.tier)}}
                        },
                    }
                    for endpoint in sorted(endpoints, key=lambda e: e.name)
                ]
            }
        ],
    }


def _discovery(assignment: Resource | None) -> Resource:
    if assignment is not None:
        return {"type": "STATIC", "load_assignment": assignment}
    source: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}
    return {"type": "EDS", "eds_cluster_config": {"eds_config": source}}


def _least_request() -> Resource:
    # Weight / (1 + requests under way): the weights steer slowly, this reacts within one request.
    return extension(
        "envoy.load_balancing_policies.least_request",
        "load_balancing_policies.least_request.v3.LeastRequest",
        {"active_request_bias": {"default_value": 1.0, "runtime_key": "starling.request_bias"}},
    )


def _http2() -> Resource:
    return typed(
        "upstreams.http.v3.HttpProtocolOptions",
        {
            "explicit_http_config": {
                "http2_protocol_options": {
                    "initial_stream_window_size": _STREAM_WINDOW_BYTES,
                    "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
                }
            }
        },
    )


def _health_check() -> Resource:
    return {
        "grpc_health_check": {},  # the empty service name: the node as a whole
        "interval": "0.5s",
        "no_traffic_interval": "0.5s",  # the default of 60 s would keep an idle mesh ignorant
        "timeout": "1s",  # a busy machine and a far node answer late, and are alive
        "unhealthy_threshold": 2,
        "healthy_threshold": 1,
        "always_log_health_check_failures": True,
    }


def _outlier_detection() -> Resource:
    # Only broken connections eject. A late answer is DEADLINE_EXCEEDED, which counts as a 504, and
    # a full node would be ejected just when its neighbours need it; draining is announced by health
    # checks.
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "2s",
        "max_ejection_time": "10s",
        # The default of 10 % ejects nothing in a small cluster; this one leaves at least one node
        # of three.
        "max_ejection_percent": 50,
        "always_eject_one_host": True,
    }


def _circuit_breakers() -> Resource:
    # The nodes' bounded queues are the real limit; these only bound the gateway's own memory.
    limits = {
        "max_connections": 1024,
        "max_requests": _REQUESTS_MAX,
        "max_pending_requests": _REQUESTS_MAX,
        # Instead of the default of 3 retries at once, which a burst of refusals overflows.
        "retry_budget": {"budget_percent": {"value": 50}, "min_retry_concurrency": 50},
    }
    return {"thresholds": [limits]}
