"""Envoy resources as plain JSON values, with extensions as mappings that name their `@type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.host import Address

Resource = dict[str, Any]
"""One Envoy v3 message in its JSON form, as files hold it and `json_format.ParseDict` reads it."""

_TYPE_URL = "type.googleapis.com/envoy.extensions."


def extension(name: str, message: str, fields: Mapping[str, Any] | None = None) -> Resource:
    """Returns a named extension: `{"name", "typed_config": {"@type", ...}}`.

    Args:
        name: the extension's name in Envoy, such as `envoy.filters.http.router`.
        message: its configuration message below `envoy.extensions`.
        fields: fields of that message.
    """
    return {"name": name, "typed_config": typed(message, fields)}


def typed(message: str, fields: Mapping[str, Any] | None = None) -> Resource:
    """Returns the fields of an extension message with its `@type`."""
    return {"@type": _TYPE_URL + message, **(fields or {})}


def dns_cluster(name: str, address: Address) -> Resource:
    """Returns an `envoy.config.cluster.v3.Cluster` of one server, by a host's name or address."""
    endpoint = {"endpoint": {"address": socket_address(address)}}
    return {
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def socket_address(address: Address) -> Resource:
    """Returns an `envoy.config.core.v3.Address`."""
    return {"socket_address": {"address": address.host, "port_value": address.port}}
