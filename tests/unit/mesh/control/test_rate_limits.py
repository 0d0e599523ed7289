"""The rate-limit service as gateways ask it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from envoy.service.ratelimit.v3 import rls_pb2

from mesh.control.rate_limits import RateLimits
from mesh.gateway.security import Rate
from mesh.gateway.security.limits import RATE_LIMIT_DOMAIN
from tests.support.security import PLAN

OK, OVER = rls_pb2.RateLimitResponse.OK, rls_pb2.RateLimitResponse.OVER_LIMIT
_PLAN = replace(PLAN, rate=Rate(per_s=2, burst=2), rate_by_tenant={"gold": Rate(per_s=10, burst=10)})


class Clock:
    """Seconds as the test says."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def ask(limits: RateLimits, tenant: str, hits: int = 0, domain: str = RATE_LIMIT_DOMAIN) -> Any:
    request = rls_pb2.RateLimitRequest(domain=domain, hits_addend=hits)
    request.descriptors.add().entries.add(key="tenant", value=tenant)
    return await limits.ShouldRateLimit(request, None)


async def test_each_tenant_has_its_own_rate() -> None:
    clock = Clock()
    limits = RateLimits(_PLAN, clock)
    assert [(await ask(limits, "free")).overall_code for _ in range(3)] == [OK, OK, OVER]
    assert [(await ask(limits, "gold")).overall_code for _ in range(11)] == [OK] * 10 + [OVER]
    clock.now_s += 0.5
    assert [(await ask(limits, "free")).overall_code for _ in range(2)] == [OK, OVER]
    assert (limits.allowed, limits.refused) == (13, 3)


async def test_the_answer_says_the_limit_and_when_to_come_back() -> None:
    limits = RateLimits(_PLAN, Clock())
    await ask(limits, "free", hits=2)
    (status,) = (await ask(limits, "free")).statuses
    assert status.code == OVER
    assert (status.current_limit.requests_per_unit, status.limit_remaining) == (2, 0)
    assert status.duration_until_reset.ToNanoseconds() == 500_000_000


async def test_more_than_a_bucket_holds_is_refused_with_a_bounded_wait() -> None:
    response = await ask(RateLimits(_PLAN, Clock()), "free", hits=1000)
    assert response.overall_code == OVER
    assert response.statuses[0].duration_until_reset.seconds == 3600


async def test_what_it_cannot_count_is_allowed() -> None:
    limits = RateLimits(_PLAN, Clock())
    for _ in range(5):
        assert (await ask(limits, "free", domain="another")).overall_code == OK
    request = rls_pb2.RateLimitRequest(domain=RATE_LIMIT_DOMAIN)
    request.descriptors.add().entries.add(key="path", value="/x")
    assert (await limits.ShouldRateLimit(request, None)).overall_code == OK
    assert (await limits.ShouldRateLimit(rls_pb2.RateLimitRequest(), None)).overall_code == OK
