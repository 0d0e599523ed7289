"""Envoy's own counters, by its interface for people."""

from __future__ import annotations

import asyncio
import urllib.request

from services.host import Address

_TIMEOUT_S = 5.0


async def read_stats(admin: Address, pattern: str) -> dict[str, int]:
    """Returns the counters and gauges whose name matches a regular expression."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{admin}/stats?filter={pattern}", timeout=_TIMEOUT_S) as reply:
            text: str = reply.read().decode()
        return text

    pairs = (line.rsplit(": ", 1) for line in (await asyncio.to_thread(read)).splitlines())
    return {name: int(value) for name, value in pairs if value.isdigit()}
