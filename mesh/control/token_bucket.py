"""Token buckets: how much each key may take, as a pure function of the times at which it asks."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from mesh.gateway.security import Rate


@dataclass(frozen=True, slots=True)
class Taken:
    """What a bucket answered.

    Attributes:
        allowed: whether the tokens were taken; nothing is taken otherwise.
        left: whole tokens that are left.
        wait_s: seconds until as many tokens are there as were asked for; 0 when they were, inf when never.
    """

    allowed: bool
    left: int
    wait_s: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    seen_s: float


class TokenBuckets:
    """One bucket per key, full at first; the key that asked least recently makes room for new ones.

    A forgotten key comes back with a full bucket, so `keys_max` bounds what a flood of invented keys can win: one
    burst each. Keys here are tenants of signed tokens, which callers cannot invent. Not thread-safe.

    Args:
        keys_max: most buckets kept, >= 1.
    """

    def __init__(self, keys_max: int) -> None:
        assert keys_max >= 1, "there is room for one bucket"
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, tokens: int, rate: Rate, now_s: float) -> Taken:
        """Takes tokens from a key's bucket if they are all there; O(1).

        Args:
            key: whose bucket.
            tokens: how many, >= 1.
            rate: how fast the bucket fills and how much it holds; may change between calls.
            now_s: on a clock that never goes back; earlier than before counts as the same time.
        """
        bucket = self._buckets.pop(key, None) or _Bucket(rate.burst, now_s)
        passed_s = max(0.0, now_s - bucket.seen_s)
        bucket.tokens = min(float(rate.burst), bucket.tokens + passed_s * rate.per_s)
        bucket.seen_s = max(now_s, bucket.seen_s)
        self._buckets[key] = bucket
        if len(self._buckets) > self._keys_max:
            self._buckets.popitem(last=False)
        if tokens > rate.burst:
            return Taken(False, math.floor(bucket.tokens), math.inf)
        missing = tokens - bucket.tokens
        if missing > 1e-9:  # less is rounding: a token's time has come
            return Taken(False, math.floor(bucket.tokens), missing / rate.per_s)
        bucket.tokens = max(0.0, bucket.tokens - tokens)
        return Taken(True, math.floor(bucket.tokens), 0.0)

    def __len__(self) -> int:
        """Returns the number of keys that are remembered."""
        return len(self._buckets)

    def __repr__(self) -> str:
        """Returns the number of keys, for people."""
        return f"<TokenBuckets keys={len(self)} of {self._keys_max}>"
