"""Keeps a copy of a service's EndpointSlices: lists them once, then watches, and lists again when it has to."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp

from mesh.control.kubernetes.api import ApiRefused, KubernetesApi, Malformed
from mesh.control.kubernetes.slices import Service, Slice

_GONE = 410
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long.

    Attributes:
        first_s, longest_s: pause after the first failure, doubled with each further one up to the longest.
        watch_s: length of a watch; some proxies cut longer ones without a word.
    """

    first_s: float = 0.2
    longest_s: float = 30.0
    watch_s: float = 240.0


class Follower:
    """Follows one service until cancelled. What it has stays when the API server is away.

    Attributes:
        slices: by name, as they are now.
        synced: whether they were ever listed.
        lists, events, failures: how often.
        problem: why it cannot follow; empty when it does.
        problem_s: since when.

    Args:
        api: where to ask.
        service: which one; its namespace is not empty.
        changed: told after each change.
        pace: how often and how long.
        rng: spreads pauses and lengths, so that a thousand followers do not come at once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        api: KubernetesApi,
        service: Service,
        changed: Callable[[], None],
        *,
        pace: Pace | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.slices: dict[str, Slice] = {}
        self.synced = False
        self.lists = self.events = self.failures = 0
        self.problem, self.problem_s = "", 0.0
        self._api, self._changed = api, changed
        self._pace, self._rng, self._clock = pace or Pace(), rng or random.Random(), clock
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices"
        self._selector = f"kubernetes.io/service-name={service.name}"
        self._version = ""
        self._in_a_row = 0

    async def run(self) -> None:
        """Lists, watches and repairs until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except ApiRefused as error:
                # Whatever it did not like about the watch, a list is right again.
                self._version = ""
                await self._pause(str(error), error.retry_after_s, is_expected=error.code == _GONE)
            except Malformed as error:
                self._version = ""
                await self._pause(str(error))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                await self._pause(f"{type(error).__name__}: {error}")

    async def _list(self) -> None:
        items, version = await self._api.list(self._path, self._selector)
        if not version:
            raise Malformed("a list without a version")
        self.slices = {_read_name(item): item for item in items}
        self._version, self.synced = version, True
        self.lists += 1
        self._changed()

    async def _watch(self) -> None:
        began_s, before = self._clock(), self.events
        lasts_s = self._pace.watch_s * self._rng.uniform(0.8, 1.0)
        watch = self._api.watch(self._path, self._selector, self._version, lasts_s, self._recover)
        async with aclosing(watch) as events:  # an event that cannot be used ends the connection too
            async for event in events:
                self._take(event)
                self._in_a_row = 0
        if self.events == before and self._clock() - began_s < self._pace.first_s:
            await self._pause("the watch ended as soon as it had begun", is_expected=True)
        else:
            self._in_a_row = 0

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, found = event.get("type"), event.get("object")
        if not isinstance(found, Mapping):
            raise Malformed(f"an event of type {kind!r} without an object")
        if kind == "ERROR":
            raise ApiRefused(int(found.get("code") or 0), str(found.get("message") or found))
        version = str((found.get("metadata") or {}).get("resourceVersion") or "")
        if not version:
            raise Malformed(f"an event of type {kind!r} without a version")
        self.events += 1
        match kind:
            case "ADDED" | "MODIFIED":
                self.slices[_read_name(found)] = found
                self._changed()
            case "DELETED":
                self.slices.pop(_read_name(found), None)
                self._changed()
            case "BOOKMARK":
                pass
            case _:
                raise Malformed(f"an event of type {kind!r}")
        self._version = version

    def _recover(self) -> None:
        if self.problem:
            _log.info("service %s is followed again", self.service)
        self.problem = ""

    async def _pause(self, problem: str, at_least_s: float = 0.0, *, is_expected: bool = False) -> None:
        if not is_expected:
            self.failures += 1
            if not self.problem:
                self.problem_s = self._clock()
            if problem != self.problem:
                _log.warning("service %s cannot be followed, its nodes stay as they were: %s", self.service, problem)
            self.problem = problem
        longest_s = min(self._pace.longest_s, self._pace.first_s * 2.0**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 30)
        await asyncio.sleep(max(at_least_s, self._rng.uniform(0.5, 1.0) * longest_s))

    def __repr__(self) -> str:
        """Returns the service, the number of slices and what is wrong."""
        return f"<Follower {self.service} slices={len(self.slices)}{' ' + self.problem if self.problem else ''}>"


def _read_name(item: Mapping[str, Any]) -> str:
    name = (item.get("metadata") or {}).get("name")
    if not name:
        raise Malformed("an object without a name")
    return str(name)
