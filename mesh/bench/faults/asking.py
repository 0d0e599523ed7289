"""Agents that ask at a steady rate, whatever comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from mesh.bench.result import percentile
from services.client import AsyncClient, Request, StarlingError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        due_s: when it was to be sent, by the monotonic clock.
        latency_s: from then until its end.
        node: who answered; empty when nobody did.
        error: what the caller was told then.
    """

    due_s: float
    latency_s: float
    node: str
    error: str = ""


def describe_latencies(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """Returns how long those that were answered took, as cells of a row."""
    times_ms = [1e3 * outcome.latency_s for outcome in outcomes if outcome.node]
    return {"p50 ms": percentile(times_ms, 50), "p99 ms": percentile(times_ms, 99), "max ms": percentile(times_ms, 100)}


class Asking:
    """Asks while the context is open, and waits for what is under way when it closes.

    Attributes:
        outcomes: one per request, in the order of their ends.
        late_s: how late the latest request was sent: what the machine itself added.

    Args:
        clients: the agents; they take turns.
        request: what they ask.
        rate: requests per second of all together.
        deadline_s: of each.
    """

    def __init__(self, clients: Sequence[AsyncClient], request: Request, rate: float, deadline_s: float) -> None:
        self._clients, self._request, self._rate, self._deadline_s = clients, request, rate, deadline_s
        self._calls: set[asyncio.Task[None]] = set()
        self.outcomes: list[Outcome] = []
        self.late_s = 0.0

    async def __aenter__(self) -> Self:
        """Begins."""
        self._sending = asyncio.create_task(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sends no more and waits for the answers."""
        self._sending.cancel()
        await asyncio.gather(self._sending, *self._calls, return_exceptions=True)

    async def _send(self) -> None:
        began_s, sent = time.monotonic(), 0
        while True:
            due_s = began_s + sent / self._rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            self.late_s = max(self.late_s, time.monotonic() - due_s)
            call = asyncio.create_task(self._ask(self._clients[sent % len(self._clients)], due_s))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            sent += 1

    async def _ask(self, client: AsyncClient, due_s: float) -> None:
        try:
            answer = await client.send(self._request, deadline_s=self._deadline_s)
            node, error = answer.node, ""
        except StarlingError as refusal:
            node, error = "", f"{refusal.status} {refusal.reason} {refusal.message}"
        self.outcomes.append(Outcome(due_s, time.monotonic() - due_s, node, error))

    def __repr__(self) -> str:
        """Returns the rate and what has ended."""
        return f"<Asking {self._rate:g}/s agents={len(self._clients)} ended={len(self.outcomes)}>"
