"""Waiting for what becomes true by itself; tests share a busy machine, so the limit is far off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_LIMIT_S = 60.0
_EVERY_S = 0.02


def wait_until(condition: Callable[[], bool]) -> bool:
    """Returns whether a condition comes true in time."""
    end_s = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(_EVERY_S)
    return True


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns when a condition has come true; fails when it does not in time."""
    end_s = time.monotonic() + _LIMIT_S
    while not await condition():
        assert time.monotonic() < end_s, "it has not come true in time"
        await asyncio.sleep(_EVERY_S)
