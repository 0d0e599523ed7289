"""How much a tenant may ask: a bucket per tenant in each gateway, and one over all gateways if there is a service."""

from __future__ import annotations

import math

from mesh.gateway.security.access import TENANT_HEADER
from mesh.gateway.security.plan import Rate, SecurityPlan
from mesh.gateway.typed import Resource, extension

RATE_LIMIT_CLUSTER = "rate-limit"
RATE_LIMIT_DOMAIN = "starling"

_TENANT = "tenant"
_TENANTS_MAX = 10_000  # buckets kept; the one unused longest makes room, full again when it comes back
_FILL_MS = 50  # Envoy's least interval; small, so that a tenant over its rate is refused evenly and not in blocks
_UNLIMITED = 1_000_000_000
_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_BY_TENANT = [{"actions": [{"request_headers": {"header_name": TENANT_HEADER, "descriptor_key": _TENANT}}]}]


def limit_here(plan: SecurityPlan) -> Resource:
    """Returns the filter that counts each tenant's requests in this gateway."""
    named = [
        {"entries": [{"key": _TENANT, "value": tenant}], "token_bucket": fill(rate)}
        for tenant, rate in sorted(plan.rate_by_tenant.items())
    ]
    # An entry without a value is a bucket for each value that comes.
    others = {"entries": [{"key": _TENANT}], "token_bucket": fill(plan.rate)}
    return extension(
        "envoy.filters.http.local_ratelimit",
        "filters.http.local_ratelimit.v3.LocalRateLimit",
        {
            "stat_prefix": "tenants",
            "filter_enabled": _ALWAYS,
            "filter_enforced": _ALWAYS,
            "rate_limited_as_resource_exhausted": True,
            # The bucket of all together is required; the node's admission is the limit for all.
            "token_bucket": {"max_tokens": _UNLIMITED, "tokens_per_fill": _UNLIMITED, "fill_interval": "1s"},
            "max_dynamic_descriptors": _TENANTS_MAX,
            "rate_limits": _BY_TENANT,
            "descriptors": [*named, others],
        },
    )


def limit_everywhere() -> Resource:
    """Returns the filter that asks the rate-limit service; a service that is away limits nobody."""
    return extension(
        "envoy.filters.http.ratelimit",
        "filters.http.ratelimit.v3.RateLimit",
        {
            "domain": RATE_LIMIT_DOMAIN,
            "timeout": "0.02s",  # a control loop waits for this on every request
            "failure_mode_deny": False,
            "rate_limited_as_resource_exhausted": True,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": RATE_LIMIT_CLUSTER}},
            },
            "rate_limits": _BY_TENANT,
        },
    )


def fill(rate: Rate) -> Resource:
    """Returns an Envoy bucket that gives `per_s` in the long run, in whole tokens and not more often than Envoy can."""
    tokens = max(1, math.ceil(rate.per_s * _FILL_MS / 1000))
    interval_s = tokens / rate.per_s
    return {"max_tokens": max(rate.burst, tokens), "tokens_per_fill": tokens, "fill_interval": f"{interval_s:.6f}s"}
