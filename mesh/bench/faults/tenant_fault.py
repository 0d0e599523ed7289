"""A tenant that asks fifty times as often as it may, beside three that keep to their rate."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mesh.bench.faults.asking import Asking, Outcome, describe_latencies
from mesh.bench.faults.work import build_request, plan_work
from mesh.bench.result import Bar, Row
from mesh.certs import Scope
from mesh.gateway.security import Rate
from mesh.local_mesh import LocalMesh, start_mesh
from mesh.supervisor import Supervisor
from services.client import AsyncClient, Tls

_RATE = Rate(per_s=20, burst=20)
_TIMES = 50
_QUIET, _QUIET_SHARE = 3, 0.8
_SECONDS = 6.0
_DEADLINE_S = 0.25
_KEPT_MIN = 0.95


async def measure_tenant(folder: Path) -> tuple[list[Row], list[Bar]]:
    """Measures what quiet tenants keep of their answers in time beside one at fifty times its rate."""
    plan = replace(plan_work(folder, 5, 2), certs=folder / "certs", rate=_RATE)
    async with Supervisor() as supervisor, AsyncExitStack() as stack:
        mesh = await start_mesh(supervisor, plan)
        names = [f"quiet-{i + 1}" for i in range(_QUIET)]
        quiet = [await stack.enter_async_context(_connect(mesh, name)) for name in names]
        noisy = await stack.enter_async_context(_connect(mesh, "noisy"))
        alone, _ = await _ask(quiet, None)
        beside, flood = await _ask(quiet, noisy)
    share_alone, share = _good_share(alone), _good_share(beside)
    answered = sum(bool(outcome.node) for outcome in flood)
    allowed = _RATE.burst + _RATE.per_s * (max(o.due_s + o.latency_s for o in flood) - min(o.due_s for o in flood))
    rows: list[Row] = [
        _row(f"{_QUIET} tenants at {_QUIET_SHARE:g} of their rate, alone", alone),
        _row(f"the same beside one at {_TIMES} times its rate", beside),
        {
            **_row(f"the one at {_TIMES} times its rate", flood),
            "what else": f"{answered} answered, {allowed:.0f} allowed",
        },
    ]
    return rows, [
        Bar(f"tenant at {_TIMES} times its rate: others' answers in time / alone", _KEPT_MIN, share / share_alone),
        Bar("its own answers / what its rate allows", 1.0, answered / allowed, at_most=True),
    ]


def _connect(mesh: LocalMesh, tenant: str) -> AsyncClient:
    assert mesh.security is not None, "it was started with certificates"
    store = mesh.security.store
    folder = store.root / "agent" / "agent"
    now, hour = datetime.now(UTC), timedelta(hours=1)
    token = store.sign_token(subject=tenant, tenant=tenant, scopes=[Scope.INFER], now=now, lifetime=hour)
    tls = Tls(ca=folder / "ca.crt", cert=folder / "tls.crt", key=folder / "tls.key", token=lambda: token)
    return AsyncClient(str(mesh.gateway), tls=tls)


async def _ask(quiet: list[AsyncClient], noisy: AsyncClient | None) -> tuple[list[Outcome], list[Outcome]]:
    async with AsyncExitStack() as stack:
        rate = _QUIET * _QUIET_SHARE * _RATE.per_s
        others = await stack.enter_async_context(Asking(quiet, build_request(), rate, _DEADLINE_S))
        flood = None
        if noisy is not None:
            flood = await stack.enter_async_context(Asking([noisy], build_request(), _TIMES * _RATE.per_s, _DEADLINE_S))
        await asyncio.sleep(_SECONDS)
    return others.outcomes, [] if flood is None else flood.outcomes


def _good_share(outcomes: list[Outcome]) -> float:
    return sum(bool(o.node) and o.latency_s <= _DEADLINE_S for o in outcomes) / len(outcomes)


def _row(name: str, outcomes: list[Outcome]) -> dict[str, str | float | int]:
    return {
        "fault": name,
        "requests": len(outcomes),
        "failed": sum(not outcome.node for outcome in outcomes),
        **describe_latencies(outcomes),
    }
