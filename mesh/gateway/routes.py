"""Routes: which calls may be repeated on another node, and how long they may take."""

from __future__ import annotations

from mesh.gateway.typed import Resource, extension

ROUTES = "mesh"

REPEATED_BYTES_MAX = 8 << 20
"""Bodies up to this size are kept until answered, so that they can be sent to another node.

A 1080p frame (1920 x 1080 x 3) is 6.2 MB. Larger requests pass, but are sent once.
"""

# Both wire formats of the same requests; regions of shared memory and loaded models belong to one node, so the other
# methods of the second are as those of ModelService.
_INFERENCE = ("/starling.predict.v1.PredictService/", "/inference.GRPCInferenceService/ModelInfer")
_NOT_GRPC = "This is a Starling gateway; it speaks gRPC: try `grpcurl -plaintext HOST:PORT list`.\n"

_RETRIES = 2  # with the first try, as many as the smallest mesh has nodes
_REPICKS = 1000  # a node with 97 % of the weight is picked again and again; 5, the default, gives up

# Predict is a pure function of its request, so a connection lost under way may be tried again too.
# A gRPC server that shuts down cancels what it has not yet looked at.
_RETRY_PREDICT = "resource-exhausted,unavailable,cancelled,connect-failure,refused-stream,reset"
# Other methods may change a node: only what no node has started is repeated.
_RETRY_UNSENT = "connect-failure,refused-stream"


def route_configuration(cluster: str) -> Resource:
    """Returns the `envoy.config.route.v3.RouteConfiguration`: every gRPC call to one cluster."""
    return {
        "name": ROUTES,
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [
                    *(_route(cluster, prefix, _RETRY_PREDICT, deadline_max_s=60) for prefix in _INFERENCE),
                    # Loading a model may compile for minutes; health watches and reflection stay
                    # open.
                    _route(cluster, "/", _RETRY_UNSENT, deadline_max_s=600),
                    {
                        "match": {"prefix": "/"},
                        "direct_response": {"status": 415, "body": {"inline_string": _NOT_GRPC}},
                    },
                ],
            }
        ],
    }


def _route(cluster: str, prefix: str, retry_on: str, deadline_max_s: int) -> Resource:
    return {
        "match": {"prefix": prefix, "grpc": {}},
        "request_body_buffer_limit": REPEATED_BYTES_MAX,
        "route": {
            "cluster": cluster,
            # The default of 15 s would cut streams; the caller's gRPC deadline rules, up to a
            # bound.
            "timeout": "0s",
            "max_stream_duration": {"grpc_timeout_header_max": f"{deadline_max_s}s"},
            "retry_policy": {
                "retry_on": retry_on,
                "num_retries": _RETRIES,
                "host_selection_retry_max_attempts": _REPICKS,
                "retry_host_predicate": [
                    extension(
                        "envoy.retry_host_predicates.previous_hosts",
                        "retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    )
                ],
                "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.005s"},
            },
        },
    }
