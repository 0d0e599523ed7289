"""Clusters: the nodes, how one is chosen, and how a bad one is noticed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from mesh.gateway.typed import Resource, extension, typed

NODES = "nodes"
LB_METADATA = "envoy.lb"
"""What of an endpoint's metadata Envoy chooses by."""

SERVES = "serves"
"""Key in it: the models and versions of a node."""

_BALANCE_PERCENT = 150  # of the mean: an agent whose node is busier than that goes to another one
_REQUESTS_MAX = 4096
_STREAM_WINDOW_BYTES = 8 << 20  # one answer with a 1080p-sized tensor without waiting a round trip
_CONNECTION_WINDOW_BYTES = 32 << 20
# A node that stopped, or whose host is gone, would hold its requests and streams for ever. Whatever it sends counts as
# an answer, so that a frame on its way up a slow link is no silence: it opens windows every 2 MB, which needs 6 Mbit/s.
_ASKED_EVERY = {"interval": "1s", "timeout": "3s"}


class Pool(StrEnum):
    """The clusters that have every node, by how one is chosen among those that serve a model."""

    NODES = NODES  # the one that answers soonest
    AGENTS = "agents"  # the same for all calls of an agent, unless it is busier than others
    SEQUENCES = "sequences"  # the same for all calls of an agent: it keeps their state


class Balancer(StrEnum):
    """How a gateway picks a node for a request."""

    LEAST_REQUEST = "least_request"  # weight / (1 + requests under way): what we use
    ROUND_ROBIN = "round_robin"
    RING_HASH = "ring_hash"  # by the header x-agent-id
    CLIENT_SIDE_WEIGHTED_ROUND_ROBIN = "client_side_weighted_round_robin"  # by the load that nodes report


def nodes_cluster(
    balancer: Balancer = Balancer.LEAST_REQUEST, pool: Pool = Pool.NODES, *, are_asked: bool = False
) -> Resource:
    """Returns the `envoy.config.cluster.v3.Cluster` of all nodes.

    Its endpoints come over the aggregated discovery stream, and have to be sent again after every change of this
    resource.

    Args:
        balancer: how the pool of all nodes picks one.
        pool: which pool.
        are_asked: whether connections ask again and again if the node is there. Ours do not mind; other gRPC servers
            take it for an attack.
    """
    options = http2_options(_ASKED_EVERY if are_asked else None)
    source: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}
    return {
        "name": str(pool),
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source},
        "connect_timeout": "1s",
        "load_balancing_policy": {"policies": [{"typed_extension_config": _policy(balancer, pool)}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "common_lb_config": {
            # With three nodes one failure is already below the default 50 % and would send traffic
            # to dead nodes.
            "healthy_panic_threshold": {"value": 0},
            # By default a change of weight or health waits for a second, in case another one follows.
            "update_merge_window": "0s",
        },
        "health_checks": [_health_check()],
        "outlier_detection": _outlier_detection(),
        "circuit_breakers": _circuit_breakers(),
    }


def _policy(balancer: Balancer, pool: Pool) -> Resource:
    match pool:
        case Pool.NODES if balancer is Balancer.CLIENT_SIDE_WEIGHTED_ROUND_ROBIN:
            # Below another policy it hears of no report (measured: equal shares whatever nodes say), so this one
            # chooses among all nodes whatever they serve.
            return _client_side_weighted_round_robin()
        case Pool.NODES:
            return _among_serving(_BALANCERS[balancer]())
        case Pool.AGENTS:
            return _among_serving(_ring_hash(_BALANCE_PERCENT))
        case Pool.SEQUENCES:
            return _among_serving(_ring_hash())


def _among_serving(policy: Resource) -> Resource:
    """Returns the policy that lets another one choose among the nodes that serve what the route asks for."""
    return extension(
        "envoy.load_balancing_policies.subset",
        "load_balancing_policies.subset.v3.Subset",
        {
            "fallback_policy": "ANY_ENDPOINT",  # of routes that ask for nothing
            "subset_selectors": [{"keys": [SERVES], "fallback_policy": "NO_FALLBACK"}],
            "list_as_any": True,
            "subset_lb_policy": {"policies": [{"typed_extension_config": policy}]},
        },
    )


def _least_request() -> Resource:
    # Weight / (1 + requests under way): the weights steer slowly, this reacts within one request.
    return extension(
        "envoy.load_balancing_policies.least_request",
        "load_balancing_policies.least_request.v3.LeastRequest",
        {"active_request_bias": {"default_value": 1.0, "runtime_key": "starling.request_bias"}},
    )


def _round_robin() -> Resource:
    return extension("envoy.load_balancing_policies.round_robin", "load_balancing_policies.round_robin.v3.RoundRobin")


def _ring_hash(balance_percent: int | None = None) -> Resource:
    fields: dict[str, Any] = {"consistent_hashing_lb_config": {"use_hostname_for_hashing": True}}
    if balance_percent is not None:
        fields["consistent_hashing_lb_config"]["hash_balance_factor"] = balance_percent
    return extension("envoy.load_balancing_policies.ring_hash", "load_balancing_policies.ring_hash.v3.RingHash", fields)


def _client_side_weighted_round_robin() -> Resource:
    # Weights are requests a second / utilisation, which the gateway asks each node for (ORCA, out of band).
    return extension(
        "envoy.load_balancing_policies.client_side_weighted_round_robin",
        "load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin",
        {
            "enable_oob_load_report": True,
            "oob_reporting_period": "0.2s",
            "blackout_period": "1s",
            "weight_expiration_period": "10s",
            "weight_update_period": "0.5s",
        },
    )


_BALANCERS = {
    Balancer.LEAST_REQUEST: _least_request,
    Balancer.ROUND_ROBIN: _round_robin,
    Balancer.RING_HASH: _ring_hash,
}


def http2_options(keepalive: Resource | None = None) -> Resource:
    """Returns the protocol options of a cluster that speaks gRPC, with when to ask whether the other side is there."""
    return typed(
        "upstreams.http.v3.HttpProtocolOptions",
        {
            "explicit_http_config": {
                "http2_protocol_options": {
                    "initial_stream_window_size": _STREAM_WINDOW_BYTES,
                    "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
                    **({} if keepalive is None else {"connection_keepalive": keepalive}),
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
