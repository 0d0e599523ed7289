"""The listener: the only address that agents know."""

from __future__ import annotations

from mesh.gateway.bootstrap import CONTROL
from mesh.gateway.model_name import name_model
from mesh.gateway.replies import replies
from mesh.gateway.routes import ROUTES
from mesh.gateway.typed import Resource, extension, socket_address
from services.host import Address

LISTENER = "grpc"
ACCESS_LOG = "upstream"

_LOAD_REPORT = "endpoint-load-metrics-bin"
_STREAMS_MAX = 1024  # calls under way per agent connection
_STREAM_WINDOW_BYTES = 8 << 20  # one 1080p frame without waiting for a window update
_CONNECTION_WINDOW_BYTES = 32 << 20
_BUFFER_BYTES = 1 << 20  # above it the gateway stops reading from the faster side


def grpc_listener(address: Address) -> Resource:
    """Returns the `envoy.config.listener.v3.Listener` for gRPC; its routes come over the aggregated discovery stream.

    Args:
        address: where to listen; port 0 takes a free one.
    """
    return {
        "name": LISTENER,
        "address": socket_address(address),
        # A second gateway on the same port has to fail, not to share its connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [{"filters": [_http_connection_manager()]}],
    }


def _http_connection_manager() -> Resource:
    routes = {"ads": {}, "resource_api_version": "V3"}
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": "mesh",
            "codec_type": "AUTO",  # HTTP/1 only to tell curl what this is
            "rds": {"route_config_name": ROUTES, "config_source": routes},
            # A quiet stream is not a dead one; a dead peer is noticed by the keepalive below.
            "stream_idle_timeout": "0s",
            "http2_protocol_options": {
                "max_concurrent_streams": _STREAMS_MAX,
                "initial_stream_window_size": _STREAM_WINDOW_BYTES,
                "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
                "connection_keepalive": {"interval": "30s", "timeout": "10s"},
            },
            "local_reply_config": replies(),
            "http_filters": [
                *name_model(),
                _keep_load_reports(),
                extension(
                    "envoy.filters.http.router",
                    "filters.http.router.v3.Router",
                    # Upstream, not downstream: one entry per try, so that a node which only refuses is seen too.
                    {"upstream_log": [_access_log()]},
                ),
            ],
        },
    )


def _keep_load_reports() -> Resource:
    """Returns the filter that keeps from agents what nodes say of their load; balancers have read it before."""
    remove = [{"remove": _LOAD_REPORT}]
    return extension(
        "envoy.filters.http.header_mutation",
        "filters.http.header_mutation.v3.HeaderMutation",
        # A refusal without a message has no trailers.
        {"mutations": {"response_mutations": remove, "response_trailers_mutations": remove}},
    )


def _access_log() -> Resource:
    common = {
        "log_name": ACCESS_LOG,
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.1s",
        "grpc_service": {"envoy_grpc": {"cluster_name": CONTROL}},
    }
    # A refusal without a message carries its status among the headers, an answer among the trailers.
    status = {
        "additional_response_headers_to_log": ["grpc-status"],
        "additional_response_trailers_to_log": ["grpc-status"],
    }
    fields = {"common_config": common, **status}
    return extension("envoy.access_loggers.http_grpc", "access_loggers.grpc.v3.HttpGrpcAccessLogConfig", fields)
