"""Following the security file: new keys of tokens and new rates reach gateways without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from mesh.gateway.security import NoSecurityPlan, SecurityPlan, read_security

_log = logging.getLogger(__name__)


async def follow_security(
    path: Path, current: SecurityPlan, takers: Sequence[Callable[[SecurityPlan], None]], every_s: float = 1.0
) -> None:
    """Reads the file again and again and hands over what is new, until cancelled; keeps the old plan when it is bad.

    Args:
        path: the file.
        current: what it held before.
        takers: get a plan that differs from the one before.
        every_s: how often it is read.
    """
    told = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            found = await asyncio.to_thread(read_security, path)
        except (OSError, NoSecurityPlan) as error:
            if str(error) != told:
                _log.error("keeping the security plan of before: %s", error)
            told = str(error)
            continue
        told = ""
        if found != current:
            current = found
            _log.info("gateways get the changed security plan of %s", path)
            for take in takers:
                take(found)
