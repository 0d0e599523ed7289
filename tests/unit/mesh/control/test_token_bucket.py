"""Buckets hold tenants to their rate whatever the times at which they ask, and never each other."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mesh.control.token_bucket import TokenBuckets
from mesh.gateway.security import Rate

GAPS_S = st.lists(st.floats(0.0, 2.0), min_size=1, max_size=200)
RATES = st.builds(Rate, per_s=st.integers(1, 50), burst=st.integers(1, 50))


@given(GAPS_S, RATES)
def test_nobody_gets_more_than_a_burst_and_the_rate(gaps_s: list[float], rate: Rate) -> None:
    buckets, now_s, allowed = TokenBuckets(4), 100.0, 0
    for gap_s in gaps_s:
        now_s += gap_s
        allowed += buckets.take("a", 1, rate, now_s).allowed
    assert allowed <= rate.burst + rate.per_s * sum(gaps_s) + 1e-6


@given(GAPS_S, RATES)
def test_who_waits_as_long_as_told_is_allowed(gaps_s: list[float], rate: Rate) -> None:
    buckets, now_s = TokenBuckets(4), 100.0
    for gap_s in gaps_s:
        now_s += gap_s
        taken = buckets.take("a", 1, rate, now_s)
        if not taken.allowed:
            now_s += taken.wait_s
            assert buckets.take("a", 1, rate, now_s).allowed


@given(GAPS_S, RATES)
def test_one_tenant_costs_another_nothing(gaps_s: list[float], rate: Rate) -> None:
    alone, shared, now_s = TokenBuckets(4), TokenBuckets(4), 100.0
    for gap_s in gaps_s:
        now_s += gap_s
        for _ in range(10):
            shared.take("flood", 1, rate, now_s)
        assert shared.take("a", 1, rate, now_s) == alone.take("a", 1, rate, now_s)


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    buckets, rate = TokenBuckets(4), Rate(1, 1)
    assert buckets.take("a", 1, rate, 10.0).allowed
    assert not buckets.take("a", 1, rate, 5.0).allowed
    assert not buckets.take("a", 1, rate, 10.5).allowed
    assert buckets.take("a", 1, rate, 11.0).allowed


def test_what_a_bucket_never_holds_is_never_promised() -> None:
    taken = TokenBuckets(4).take("a", 6, Rate(100, 5), 0.0)
    assert (taken.allowed, taken.wait_s) == (False, math.inf)


def test_the_number_of_buckets_is_bounded() -> None:
    buckets, rate = TokenBuckets(3), Rate(1, 1)
    for index in range(100):
        buckets.take(f"tenant-{index}", 1, rate, 0.0)
    assert len(buckets) == 3
    assert not buckets.take("tenant-99", 1, rate, 0.0).allowed
