"""TLS towards agents and towards nodes, with certificates that Envoy follows while it serves."""

from __future__ import annotations

from pathlib import Path

from mesh.gateway.security.plan import SecurityPlan
from mesh.gateway.typed import Resource, extension

IDENTITY = "identity"
"""Secret: the gateway's own certificate and key."""

AUTHORITIES = "authorities"
"""Secret: who may sign the certificates of agents and nodes."""

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  # a type
_VERSIONS = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}


def build_secrets(plan: SecurityPlan) -> dict[Path, Resource]:
    """Returns the discovery files by path: each names a secret and the folder whose replacement renews it.

    Files instead of contents, so that no private key is ever part of a configuration, a dump of it, or a message.
    """
    folder = plan.certificates
    watched = {"watched_directory": {"path": str(folder)}}
    identity = {
        "certificate_chain": {"filename": str(folder / "tls.crt")},
        "private_key": {"filename": str(folder / "tls.key")},
        **watched,
    }
    authorities = {"trusted_ca": {"filename": str(folder / "ca.crt")}, **watched}
    return {
        _secret_file(plan, IDENTITY): _secret(IDENTITY, {"tls_certificate": identity}),
        _secret_file(plan, AUTHORITIES): _secret(AUTHORITIES, {"validation_context": authorities}),
    }


def towards_agents(plan: SecurityPlan) -> Resource:
    """Returns the `envoy.config.core.v3.TransportSocket` that only lets holders of a certificate in."""
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        {"require_client_certificate": True, "common_tls_context": _common(plan)},
    )


def towards_nodes(plan: SecurityPlan) -> Resource:
    """Returns the `envoy.config.core.v3.TransportSocket` that shows our certificate and checks the node's.

    A node has to prove the very name that its endpoint goes by, so one node cannot answer in place of another,
    and nothing here changes when nodes come and go.
    """
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        {"auto_host_sni": True, "auto_sni_san_validation": True, "common_tls_context": _common(plan)},
    )


def towards_control(plan: SecurityPlan) -> Resource:
    """Returns the `envoy.config.core.v3.TransportSocket` that shows our certificate and wants a control plane's.

    It is known by its identity and not by a host name: nodes hold certificates for the same hosts.
    """
    prefix = f"spiffe://{plan.trust_domain}/control/"
    names = {"san_type": "URI", "matcher": {"prefix": prefix}}
    common = _common(plan)
    # The authorities come from a file that is followed; who of those they sign, from here.
    followed = common.pop("validation_context_sds_secret_config")
    common["combined_validation_context"] = {
        "default_validation_context": {"match_typed_subject_alt_names": [names]},
        "validation_context_sds_secret_config": followed,
    }
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        {"common_tls_context": common},
    )


def towards_issuer(ca: Path, host: str) -> Resource:
    """Returns the transport socket of an issuer of tokens on the web."""
    names = {"san_type": "DNS", "matcher": {"exact": host}}
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        {
            "sni": host,
            "common_tls_context": {
                "tls_params": _VERSIONS,
                "validation_context": {"trusted_ca": {"filename": str(ca)}, "match_typed_subject_alt_names": [names]},
            },
        },
    )


def _common(plan: SecurityPlan) -> Resource:
    return {
        "alpn_protocols": ["h2"],
        "tls_params": _VERSIONS,
        "tls_certificate_sds_secret_configs": [_follow(plan, IDENTITY)],
        "validation_context_sds_secret_config": _follow(plan, AUTHORITIES),
    }


def _follow(plan: SecurityPlan, name: str) -> Resource:
    source = {"path_config_source": {"path": str(_secret_file(plan, name))}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def _secret_file(plan: SecurityPlan, name: str) -> Path:
    return plan.secrets / f"{name}.sds.json"


def _secret(name: str, body: Resource) -> Resource:
    return {"resources": [{"@type": _SECRET, "name": name, **body}]}
