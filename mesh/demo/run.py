"""One run of the demo, from an idle machine to the last outcome, and back to an idle machine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rich.console import Console

from mesh.assets import get_model, get_video, pull_missing
from mesh.child import Child
from mesh.demo.links import AGENTS, GATEWAY, Links, plan_testbed, read_links
from mesh.demo.monitor import Monitor
from mesh.demo.settings import DemoSettings
from mesh.errors import ChildFailed
from mesh.gateway import find_envoy
from mesh.hosts import THIS_MACHINE, Hosts
from mesh.interrupt import Interrupted, unless, watch_interrupts
from mesh.local_mesh import LocalMesh, MeshPlan, check_plan, start_mesh
from mesh.machine import read_process_age_s
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed import Testbed, open_testbed
from services.host import Address

_FLEET_COMMAND = (sys.executable, "-P", "-m", "mesh.demo.fleet_process")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended; its outcomes are with the monitor.

    Attributes:
        tier_by_node: the nodes that the mesh had.
        interrupted: the user ended it early.
        links: what lay between the hosts; None without a testbed.
    """

    tier_by_node: Mapping[str, str]
    interrupted: bool
    links: Links | None = None


class DemoRun:
    """Starts a mesh and a fleet, follows the flight and stops everything.

    Args:
        settings: what to run.
        plan: the mesh of it.
        monitor: hears the fleet and shows the run.
        console: where to say what is going on.
    """

    def __init__(self, settings: DemoSettings, plan: MeshPlan, monitor: Monitor, console: Console) -> None:
        self._settings, self._plan = settings, plan
        self._monitor, self._console = monitor, console
        self._bed: Testbed | None = None
        self._flying = False

    async def run(self) -> Ending:
        """Returns when every process has ended.

        Raises:
            Interrupted: the user ended it before the measurement.
            MeshError: a part is missing, did not start or broke.
        """
        # A testbed's gateway has a network of its own, where every port is free.
        find_envoy() if self._settings.testbed else check_plan(self._plan)
        async with watch_interrupts() as stop, Supervisor(self._on_exit) as supervisor:
            mesh, fleet = await unless(stop, self._start(supervisor))
            tiers = {node.name: str(node.tier) for node in mesh.nodes}
            showing = asyncio.create_task(self._monitor.show(tiers))
            try:
                await self._follow(stop, mesh.gateway_child, fleet)
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
            links = await read_links(self._bed) if self._bed is not None else None
            return Ending(tiers, interrupted=stop.is_set(), links=links)

    async def _start(self, supervisor: Supervisor) -> tuple[LocalMesh, Child]:
        settings = self._settings
        video = get_video(os.environ)
        needed = [get_model(settings.repository, settings.model)]
        needed += [video] if settings.video == video.path else []
        await pull_missing(supervisor, needed)
        hosts, plan = await self._open_hosts(supervisor)
        self._say(
            f"starting {settings.edges} edge and {settings.clouds} cloud nodes "
            f"({settings.rtt_ms:g} ms away) with {settings.model}"
        )
        # The fleet loads while the nodes compile; then it waits for its target.
        with self._console.status("loading models and compiling them for this machine"):
            (fleet,) = await supervisor.spawn([hosts.place(AGENTS, _build_fleet(settings, self._monitor))])
            mesh = await start_mesh(supervisor, plan)
        self._say(f"gateway {mesh.gateway} serves after {read_process_age_s():.1f} s")
        await fleet.ready()
        self._flying = True
        fleet.send_line(f"go {mesh.gateway}")
        return mesh, fleet

    async def _open_hosts(self, supervisor: Supervisor) -> tuple[Hosts, MeshPlan]:
        """Returns where everything runs, and the mesh's plan for there; starts a testbed if one was asked for."""
        if not self._settings.testbed:
            return THIS_MACHINE, self._plan
        self._bed = bed = await open_testbed(plan_testbed(self._settings), supervisor)
        self._say(f"links: {bed.what}")
        if not bed.has_links:
            return bed, self._plan
        if self._settings.clouds:
            self._say(f"change one while it carries: starling testbed set {GATEWAY}-cloud-1 --delay-ms 80")
        gateway = Address(bed.get_address(GATEWAY), self._plan.gateway.port)
        return bed, replace(self._plan, hosts=bed, gateway=gateway)

    async def _follow(self, stop: asyncio.Event, gateway: Child, fleet: Child) -> None:
        """Returns when the fleet has told its last outcome, early if asked to stop.

        Raises:
            Interrupted: asked to stop before the measurement started.
            ChildFailed: the gateway or the fleet broke.
        """
        landed = asyncio.create_task(fleet.wait())
        waits = {landed, asyncio.create_task(gateway.wait()), asyncio.create_task(stop.wait())}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self._flying = False
            await fleet.stop()  # it lands: frames under way still get their outcome
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for child in (gateway, fleet):
            if child.exit_code:
                raise ChildFailed(child.name, child.exit_code, child.stderr_tail)
        if self._monitor.ended is None:
            raise Interrupted

    def _on_exit(self, child: Child) -> None:
        """Tells of a part that left while the fleet flies; the run goes on without it."""
        if self._flying and child.name not in ("fleet", "gateway"):
            last_words = child.stderr_tail.splitlines()[-1:] if child.exit_code else []
            why = f": {last_words[0]}" if last_words else ""
            self._monitor.note(f"{child.name} ended with status {child.exit_code}{why}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def _build_fleet(settings: DemoSettings, monitor: Monitor) -> Program:
    flags = {
        "--video": str(settings.video),
        "--model": settings.model,
        "--agents": str(settings.agents),
        "--hz": repr(settings.hz),
        "--seconds": repr(settings.seconds),
        "--deadline-ms": repr(settings.deadline_ms),
        "--seed": str(settings.seed),
    }
    command = (*_FLEET_COMMAND, *(word for flag in flags.items() for word in flag))
    grace_s = settings.deadline_ms / 1e3 + 5.0  # frames under way end with their deadline
    return Program("fleet", command, on_line=monitor.hear, stop_grace_s=grace_s)
