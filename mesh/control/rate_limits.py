"""The rate-limit service: counts a tenant's requests over all gateways together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2, rls_pb2_grpc

from mesh.control.token_bucket import TokenBuckets
from mesh.gateway.security import SecurityPlan
from mesh.gateway.security.limits import RATE_LIMIT_DOMAIN, TENANT_KEY

_TENANTS_MAX = 10_000
_WAIT_S_MAX = 3600.0  # longer than anybody waits; a request that can never pass says this


class RateLimits(rls_pb2_grpc.RateLimitServiceServicer):  # type: ignore[misc]
    """Answers gateways whether a tenant may go on. Used from one event loop.

    Whatever it does not know how to count is allowed: a gateway of a newer version is not a flood.

    Args:
        plan: rates of the tenants.
        clock: seconds that never go back.
    """

    def __init__(self, plan: SecurityPlan, clock: Callable[[], float]) -> None:
        self._plan, self._clock = plan, clock
        self._buckets = TokenBuckets(_TENANTS_MAX)
        self.allowed = 0
        self.refused = 0

    def set_plan(self, plan: SecurityPlan) -> None:
        """Counts by other rates from now on; buckets keep what is in them."""
        self._plan = plan

    async def ShouldRateLimit(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        """Takes one token, or `hits_addend`, for each tenant that the request names."""
        response = rls_pb2.RateLimitResponse()
        tokens = max(1, request.hits_addend)
        now_s = self._clock()
        for descriptor in request.descriptors:
            status = response.statuses.add(code=rls_pb2.RateLimitResponse.OK)
            tenants = [entry.value for entry in descriptor.entries if entry.key == TENANT_KEY]
            if request.domain != RATE_LIMIT_DOMAIN or not tenants:
                continue
            rate = self._plan.rate_by_tenant.get(tenants[0], self._plan.rate)
            taken = self._buckets.take(tenants[0], tokens, rate, now_s)
            status.limit_remaining = taken.left
            status.current_limit.requests_per_unit = rate.per_s
            status.current_limit.unit = rls_pb2.RateLimitResponse.RateLimit.SECOND
            if not taken.allowed:
                status.code = rls_pb2.RateLimitResponse.OVER_LIMIT
                status.duration_until_reset.FromNanoseconds(math.ceil(min(taken.wait_s, _WAIT_S_MAX) * 1e9))
        over = any(status.code == rls_pb2.RateLimitResponse.OVER_LIMIT for status in response.statuses)
        response.overall_code = rls_pb2.RateLimitResponse.OVER_LIMIT if over else rls_pb2.RateLimitResponse.OK
        self.refused += over
        self.allowed += not over
        return response

    def __repr__(self) -> str:
        """Returns what it has answered."""
        return f"<RateLimits allowed={self.allowed} refused={self.refused} tenants={len(self._buckets)}>"
