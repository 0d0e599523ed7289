"""The gateway is killed and started again while a thousand agents ask: all of them reconnect at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from mesh.bench.envoy_stats import read_stats
from mesh.bench.faults.asking import Asking, describe_latencies
from mesh.bench.faults.work import build_request, plan_work
from mesh.bench.result import Bar, Row
from mesh.gateway import GatewaySite, bootstrap, envoy_program, find_envoy
from mesh.local_mesh import start_mesh
from mesh.supervisor import Supervisor
from services.client import AsyncClient, RetryPolicy
from services.host import Address

AGENTS = 1000
_HZ = 0.25
_DEADLINE_S = 10.0
_BEFORE_S, _AFTER_S = 2.0, 3.0
_BACK_S_MAX = 3.0
_TRIES = RetryPolicy(attempts_max=50)  # within the deadline, a second apart at most


async def measure_gateway(folder: Path) -> tuple[list[Row], list[Bar]]:
    """Kills Envoy under a thousand connected agents and starts another one at its address."""
    request = build_request()
    async with Supervisor() as supervisor, AsyncExitStack() as stack:
        mesh = await start_mesh(supervisor, plan_work(folder, 5, 8))
        agents = [
            await stack.enter_async_context(AsyncClient(str(mesh.gateway), agent_id=f"agent-{i}", retry=_TRIES))
            for i in range(AGENTS)
        ]
        for agent in agents:  # one after the other: only coming back is at once
            await agent.send(request, deadline_s=_DEADLINE_S)
        async with Asking(agents, request, AGENTS * _HZ, _DEADLINE_S) as asking:
            await asyncio.sleep(_BEFORE_S)
            began_s = time.monotonic()
            await mesh.gateway_child.kill()
            site = GatewaySite("gateway", mesh.gateway, mesh.control)
            (again,) = await supervisor.start([envoy_program(find_envoy(), bootstrap(site), folder)])
            back_s = time.monotonic()
            # Beside what each asks on its own schedule, everybody asks at this moment.
            calls = [agent.send(request, deadline_s=_DEADLINE_S) for agent in agents]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            all_s = time.monotonic() - back_s
            await asyncio.sleep(_AFTER_S)
        admin = Address.parse(again.facts["admin"])
        connections = (await read_stats(admin, "http.mesh.downstream_cx_total"))["http.mesh.downstream_cx_total"]
    refused = sum(isinstance(answer, BaseException) for answer in answers)
    failed = refused + sum(not outcome.node for outcome in asking.outcomes)
    during = [o for o in asking.outcomes if began_s - 1.0 <= o.due_s < back_s + 1.0]
    row: Row = {
        "fault": f"kill -9 of the gateway, {AGENTS} agents",
        "requests": len(asking.outcomes) + len(answers),
        "failed": failed,
        **describe_latencies(during),
        "what else": f"away {back_s - began_s:.2f} s, all answered {all_s:.2f} s after; {connections} connections",
    }
    return [row], [
        Bar("kill -9 of the gateway: errors that clients surfaced", 0, failed, at_most=True),
        Bar("agents that reconnected", AGENTS, connections),
        Bar("all agents reconnecting at once: until each is answered, s", _BACK_S_MAX, all_s, at_most=True),
    ]
