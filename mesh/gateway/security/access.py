"""Who may call what: the token says which tenant and scopes, the certificate says which kind of holder."""

from __future__ import annotations

from mesh.gateway.security.methods import FLEET_PREFIXES, INFER_METHODS, OPEN_PREFIXES
from mesh.gateway.security.plan import RemoteKeys, SecurityPlan
from mesh.gateway.typed import Resource, extension

TENANT_HEADER = "x-tenant"
TOKEN_CLUSTER = "token-issuer"  # noqa: S105  # a name

REFUSAL = "refusal"
"""Metadata of the token filter: why it refused one."""

TOKEN_FILTER = "envoy.filters.http.jwt_authn"  # noqa: S105  # a name
_CLAIMS = "claims"

TOKEN_BYTES_MAX = 8192
"""A token of ours has less than 1 KiB, one with many claims a few."""

_SKEW_S = 10
_TOKENS_MAX = 1000  # checked ones that are remembered, by each worker of a gateway


def strip_forged_headers() -> Resource:
    """Returns an early header mutation: whatever a caller says about its tenant is gone before anything looks."""
    return extension(
        "envoy.http.early_header_mutation.header_mutation",
        "http.early_header_mutation.header_mutation.v3.HeaderMutation",
        {"mutations": [{"remove": TENANT_HEADER}]},
    )


def refuse_large_token() -> Resource:
    """Returns the filter that refuses tokens before anybody decodes them.

    Envoy itself only knows a bound for all headers together, and cuts the stream without a word above it.
    """
    source = (
        "function envoy_on_request(handle)\n"
        '  local value = handle:headers():get("authorization")\n'
        f"  if value ~= nil and #value > {TOKEN_BYTES_MAX} then\n"
        '    handle:respond({[":status"] = "401"}, '
        f'"it has " .. #value .. " bytes, and at most {TOKEN_BYTES_MAX} are read")\n'
        "  end\n"
        "end\n"
    )
    fields = {"default_source_code": {"inline_string": source}}
    return extension("envoy.filters.http.lua", "filters.http.lua.v3.Lua", fields)


def check_token(plan: SecurityPlan) -> Resource:
    """Returns the filter that checks tokens and turns the claim `tenant` into the header `x-tenant`."""
    provider = {
        "issuer": plan.issuer,
        "audiences": [plan.audience],
        "require_expiration": True,
        "clock_skew_seconds": _SKEW_S,
        "claim_to_headers": [{"header_name": TENANT_HEADER, "claim_name": "tenant"}],
        "payload_in_metadata": _CLAIMS,
        "failed_status_in_metadata": REFUSAL,
        # A signature costs more than all else a gateway does for a small request; the end is checked every time.
        "jwt_cache_config": {"jwt_cache_size": _TOKENS_MAX, "jwt_max_token_size": TOKEN_BYTES_MAX},
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        **_keys(plan.keys),
    }
    rules = [{"match": {"prefix": prefix}} for prefix in OPEN_PREFIXES]
    required = {"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}
    fields = {"providers": {"issuer": provider}, "rules": [*rules, required]}
    return extension(TOKEN_FILTER, "filters.http.jwt_authn.v3.JwtAuthentication", fields)


def check_rights(plan: SecurityPlan) -> Resource:
    """Returns the filter that compares method, kind of certificate and scopes; what no policy allows is refused."""
    policies = {
        "open": {"permissions": [_below(*OPEN_PREFIXES)], "principals": [{"any": True}]},
        "infer": {
            "permissions": [_any_of([_path({"exact": method}) for method in INFER_METHODS])],
            "principals": [_holder(plan, ("agent", "admin"), "infer")],
        },
        "fleet": {
            "permissions": [_below(*FLEET_PREFIXES)],
            "principals": [_holder(plan, ("agent", "admin"), "fleet")],
        },
        # Two proofs: a token that leaked from an agent is no admin, and neither is an admin's certificate alone.
        "admin": {"permissions": [{"any": True}], "principals": [_holder(plan, ("admin",), "admin")]},
    }
    fields = {"rules": {"action": "ALLOW", "policies": policies}}
    return extension("envoy.filters.http.rbac", "filters.http.rbac.v3.RBAC", fields)


def _keys(keys: str | RemoteKeys) -> Resource:
    if isinstance(keys, str):
        return {"local_jwks": {"inline_string": keys}}
    source = {
        "http_uri": {"uri": keys.uri, "cluster": TOKEN_CLUSTER, "timeout": "5s"},
        "cache_duration": "300s",
        # Fetched before the first call, so that no agent pays for it, and again when the issuer was away.
        "async_fetch": {"fast_listener": True, "failed_refetch_duration": "1s"},
        "retry_policy": {"num_retries": 3},
    }
    return {"remote_jwks": source}


def _holder(plan: SecurityPlan, roles: tuple[str, ...], scope: str) -> Resource:
    named = [{"authenticated": {"principal_name": {"prefix": _uri(plan, role)}}} for role in roles]
    return {"and_ids": {"ids": [{"or_ids": {"ids": named}}, _has_scope(scope), _has_tenant()]}}


def _uri(plan: SecurityPlan, role: str) -> str:
    return f"spiffe://{plan.trust_domain}/{role}/"


def _has_scope(scope: str) -> Resource:
    return _claim("scope", {"list_match": {"one_of": {"string_match": {"exact": scope}}}})


def _has_tenant() -> Resource:
    # Without one there is no header, and the node would count the caller among those without a tenant.
    return {"header": {"name": TENANT_HEADER, "present_match": True}}


def _claim(name: str, value: Resource) -> Resource:
    path = [{"key": _CLAIMS}, {"key": name}]
    matcher = {"filter": TOKEN_FILTER, "path": path, "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def _path(matcher: Resource) -> Resource:
    return {"url_path": {"path": matcher}}


def _below(*prefixes: str) -> Resource:
    return _any_of([_path({"prefix": prefix}) for prefix in prefixes])


def _any_of(rules: list[Resource]) -> Resource:
    return {"or_rules": {"rules": rules}}
