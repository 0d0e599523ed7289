"""Turns Ctrl-C, SIGTERM and a closed terminal into one event that a command can wait for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The user asked to stop while something else was awaited."""


@asynccontextmanager
async def watch_interrupts() -> AsyncIterator[asyncio.Event]:
    """Yields an event that the first signal sets; the second one cancels the calling task."""
    loop, task, stop = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T:
    """Returns what `work` returns; gives it up as soon as `stop` is set.

    Raises:
        Interrupted: `stop` was set first; `work` was cancelled and has ended.
    """
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise Interrupted
    finally:
        stopping.cancel()
        doing.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)
