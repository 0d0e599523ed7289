"""The listener: the only address that agents know."""

from __future__ import annotations

from mesh.gateway.routes import ROUTES
from mesh.gateway.typed import Resource, extension, socket_address
from services.host import Address

LISTENER = "grpc"

_STREAMS_MAX = 1024  # calls under way per agent connection
_STREAM_WINDOW_BYTES = 8 << 20  # one 1080p frame without waiting for a window update
_CONNECTION_WINDOW_BYTES = 32 << 20
_BUFFER_BYTES = 1 << 20  # above it the gateway stops reading from the faster side


def grpc_listener(address: Address, routes: Resource | None = None) -> Resource:
    """Returns the `envoy.config.listener.v3.Listener` for gRPC.

    Args:
        address: where to listen; port 0 takes a free one.
        routes: a RouteConfiguration to embed; without it routes come over the aggregated discovery
            stream.
    """
    return {
        "name": LISTENER,
        "address": socket_address(address),
        # A second gateway on the same port has to fail, not to share its connections.
        "enable_reuse_port": False,
        "per_connection_buffer_limit_bytes": _BUFFER_BYTES,
        "filter_chains": [{"filters": [_http_connection_manager(routes)]}],
    }


def _http_connection_manager(routes: Resource | None) -> Resource:
    return extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": "mesh",
            "codec_type": "AUTO",  # HTTP/1 only to tell curl what this is
            **_routes(routes),
            # A quiet stream is not a dead one; a dead peer is noticed by the keepalive below.
            "stream_idle_timeout": "0s",
            "http2_protocol_options": {
                "max_concurrent_streams": _STREAMS_MAX,
                "initial_stream_window_size": _STREAM_WINDOW_BYTES,
                "initial_connection_window_size": _CONNECTION_WINDOW_BYTES,
                "connection_keepalive": {"interval": "30s", "timeout": "10s"},
            },
            "http_filters": [
                extension("envoy.filters.http.router", "filters.http.router.v3.Router"),
            ],
        },
    )


def _routes(routes: Resource | None) -> Resource:
    if routes is not None:
        return {"route_config": routes}
    source = {"ads": {}, "resource_api_version": "V3"}
    return {"rds": {"route_config_name": ROUTES, "config_source": source}}
