"""How much a tenant may ask: a bucket per tenant in each gateway, and one over all gateways if there is a service."""

from __future__ import annotations

import math

from mesh.gateway.bootstrap import CONTROL
from mesh.gateway.security.access import TENANT_HEADER
from mesh.gateway.security.plan import Rate, SecurityPlan
from mesh.gateway.typed import Resource, extension

RATE_LIMIT_DOMAIN = "starling"

TENANT_KEY = "tenant"
"""What the count of a tenant goes by, here and at the service."""
_TENANTS_MAX = 10_000  # buckets kept; the one unused longest makes room, full again when it comes back
_FILL_MS = 50  # Envoy's least interval; small, so that a tenant over its rate is refused evenly and not in blocks
_UNLIMITED = 1_000_000_000
_ALWAYS = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_BY_TENANT = [{"actions": [{"request_headers": {"header_name": TENANT_HEADER, "descriptor_key": TENANT_KEY}}]}]


def limit_here(plan: SecurityPlan) -> Resource:
    """Returns the filter that counts each tenant's requests in this gateway."""
    named = [
        {"entries": [{"key": TENANT_KEY, "value": tenant}], "token_bucket": fill(rate)}
        for tenant, rate in sorted(plan.rate_by_tenant.items())
    ]
    # An entry without a value is a bucket for each value that comes.
    others = {"entries": [{"key": TENANT_KEY}], "token_bucket": fill(plan.rate)}
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


def limit_everywhere(timeout_s: float = 0.02) -> Resource:
    """Returns the filter that asks the control plane; one that is away limits nobody.

    Args:
        timeout_s: how long a request waits for it before it goes on; a control loop does every time.
    """
    return extension(
        "envoy.filters.http.ratelimit",
        "filters.http.ratelimit.v3.RateLimit",
        {
            "domain": RATE_LIMIT_DOMAIN,
            "timeout": f"{timeout_s:g}s",
            "failure_mode_deny": False,
            "rate_limited_as_resource_exhausted": True,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": CONTROL}},
            },
            "rate_limits": _BY_TENANT,
        },
    )


def fill(rate: Rate) -> Resource:
    """Returns an Envoy bucket that gives `per_s` in the long run, in whole tokens and not more often than Envoy can."""
    tokens = max(1, math.ceil(rate.per_s * _FILL_MS / 1000))
    interval_s = tokens / rate.per_s
    return {"max_tokens": max(rate.burst, tokens), "tokens_per_fill": tokens, "fill_interval": f"{interval_s:.6f}s"}
