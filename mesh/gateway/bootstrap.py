"""The bootstrap: the file that Envoy starts from. All else comes from the control plane."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.gateway.clusters import http2_options
from mesh.gateway.typed import Resource, dns_cluster, extension, socket_address
from services.host import Address

CONTROL = "control"
"""Cluster of the control plane: discovery, rates of tenants, and the access log on its way back."""

_CONNECTIONS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class GatewaySite:
    """What one gateway is and where it stands.

    Attributes:
        name: unique in the mesh.
        listen: where agents call it; port 0 takes a free one.
        control: the control plane.
        viewpoint: gateways of one viewpoint stand at one place; each on its own when empty.
    """

    name: str
    listen: Address
    control: Address
    viewpoint: str = ""


def bootstrap(site: GatewaySite, *, delta: bool = True) -> Resource:
    """Returns an `envoy.config.bootstrap.v3.Bootstrap` that asks the control plane for everything else.

    Args:
        site: what the gateway is; the control plane builds its configuration from it.
        delta: use the incremental protocol, where a change costs only what changed.
    """
    stream = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {
            "id": site.name,
            "cluster": "starling",
            "metadata": {"starling": {"listen": str(site.listen), "viewpoint": site.viewpoint}},
        },
        # Loopback only: whoever reaches it can stop the gateway. Envoy writes the port it took into
        # a file.
        "admin": {"address": socket_address(Address("127.0.0.1", 0))},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": CONTROL,
                            # The default backs off to 30 s; a restarted control plane is heard within two.
                            "retry_policy": {"retry_back_off": {"base_interval": "0.25s", "max_interval": "2s"}},
                        }
                    }
                ],
            },
            "cds_config": stream,
            "lds_config": stream,
        },
        "static_resources": {"clusters": [_control_cluster(site.control)]},
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


def _control_cluster(address: Address) -> Resource:
    # A control plane that vanished without a word is noticed, and called again.
    options = http2_options({"interval": "2s", "timeout": "2s"})
    return {
        **dns_cluster(CONTROL, address),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }
