"""Makes the resources of a gateway secure: plain values in, plain values out."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from mesh.gateway.security.access import (
    TOKEN_CLUSTER,
    check_rights,
    check_token,
    refuse_large_token,
    strip_forged_headers,
)
from mesh.gateway.security.limits import limit_everywhere, limit_here
from mesh.gateway.security.plan import RemoteKeys, SecurityPlan
from mesh.gateway.security.replies import local_replies
from mesh.gateway.security.transport import towards_agents, towards_control, towards_issuer, towards_nodes
from mesh.gateway.typed import Resource, dns_cluster

HEADERS_KIB_MAX = 96
"""All headers of a call together. Above it Envoy cuts the stream without a word; below, a token that is too large is
refused with one."""


def secure_listener(listener: Resource, plan: SecurityPlan) -> Resource:
    """Returns a listener that lets in who proves who they are, and only as far as they may."""
    (chain,) = listener["filter_chains"]
    (manager,) = chain["filters"]
    config = manager["typed_config"]
    secured = {
        **config,
        "codec_type": "HTTP2",
        # Every caller is a stranger: Envoy drops the headers with which a trusted one steers it. By default it trusts
        # private networks and loopback, and an empty list means the default; so the list names nobody's address.
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]},
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": True},
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": HEADERS_KIB_MAX,
        "early_header_mutation_extensions": [strip_forged_headers()],
        "local_reply_config": local_replies(),
        "http_filters": [*_filters(plan), *config["http_filters"]],
    }
    filters = [{**manager, "typed_config": secured}]
    return {**listener, "filter_chains": [{**chain, "transport_socket": towards_agents(plan), "filters": filters}]}


def secure_nodes(cluster: Resource, plan: SecurityPlan) -> Resource:
    """Returns the cluster of the nodes with TLS in both directions; health checks use it too."""
    return {**cluster, "transport_socket": towards_nodes(plan)}


def secure_control(bootstrap: Resource, plan: SecurityPlan) -> Resource:
    """Returns a bootstrap that reaches its control plane, its only cluster, with TLS in both directions."""
    static = bootstrap["static_resources"]
    (control,) = static["clusters"]
    secured = {**control, "transport_socket": towards_control(plan)}
    return {**bootstrap, "static_resources": {**static, "clusters": [secured]}}


def further_clusters(plan: SecurityPlan) -> Sequence[Resource]:
    """Returns the clusters that checking needs: the issuer of tokens."""
    clusters = []
    if isinstance(plan.keys, RemoteKeys):
        host = urlsplit(plan.keys.uri).hostname or plan.keys.address.host
        socket = towards_issuer(plan.keys.ca, host)
        clusters.append({**dns_cluster(TOKEN_CLUSTER, plan.keys.address), "transport_socket": socket})
    return clusters


def _filters(plan: SecurityPlan) -> list[Resource]:
    # Rights need the claims of the token, limits need the tenant, and nobody uses up another's limit.
    filters = [refuse_large_token(), check_token(plan), check_rights(plan), limit_here(plan)]
    if plan.rate_everywhere:
        filters.append(limit_everywhere())
    return filters
