"""A running testbed: what both kinds can do, and which kind this machine can have."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed.delayed import DelayedTestbed
from mesh.testbed.plan import TestbedPlan
from mesh.testbed.status import LaneStatus
from mesh.testbed.wired import WiredTestbed
from services.host import Address

T = TypeVar("T")

_PROGRAM = "starling-testbed"
_CHECK_S = 10.0


class Testbed(Protocol):
    """Hosts and links that run, until the supervisor that owns their processes stops."""

    @property
    def plan(self) -> TestbedPlan:
        """The plan as it is now, with every change."""

    @property
    def what(self) -> str:
        """Which kind it is and why, for people."""

    @property
    def has_links(self) -> bool:
        """Whether distance lies between the hosts by itself; else `reach` stands in for it."""

    def get_address(self, host: str) -> str:
        """Returns the address that servers of a host listen on."""

    def place(self, host: str, program: Program) -> Program:
        """Returns the program such that it runs at a host."""

    async def run(self, host: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns what a coroutine returns that runs with the network of a host."""

    async def reach(self, origin: str, host: str, target: Address) -> Address:
        """Returns where programs at `origin` find a server that listens on `target` at `host`."""

    async def change(self, link: str, *, towards: str | None = None, **values: float) -> None:
        """Changes values of a link's shape from now on, both ways or one.

        Raises:
            ChangeRefused: there is no such link or value, or this kind cannot show it.
        """

    async def read_lanes(self) -> Sequence[LaneStatus]:
        """Returns what the links are; those of the plan without counts if nobody counts."""


async def open_testbed(plan: TestbedPlan, supervisor: Supervisor, *, needs_wire: bool = False) -> Testbed:
    """Starts the hosts and links of a plan: network namespaces if this machine has them, else TCP delays.

    Args:
        plan: what to start.
        supervisor: owns the processes; the testbed ends with it.
        needs_wire: refuse instead of falling back.

    Raises:
        BadPlan: the plan contradicts itself.
        WireMissing: there are no namespaces, and the plan or the caller needs them.
        ChildFailed: another testbed of that name runs, or the kernel refused.
    """
    plan.check()
    program = find_program()
    why_not = await asyncio.to_thread(why_no_wire, program)
    if why_not is None:
        return await WiredTestbed.start(plan, supervisor, str(program))
    return DelayedTestbed(plan, supervisor, why_not, needs_wire=needs_wire)


def find_program() -> Path:
    """Returns where the build puts the wire's program; it may be missing."""
    return Path(sys.executable).parent / _PROGRAM


def why_no_wire(program: Path) -> str | None:
    """Returns why this machine and user cannot have network namespaces, None if they can.

    It tries: makes a namespace and a device, which end with the program that made them.
    """
    if not program.is_file():
        return f"{program} was not built; run `make build`"
    try:
        tried = subprocess.run([str(program), "--check"], capture_output=True, text=True, timeout=_CHECK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{_PROGRAM} --check: {error}"
    return None if tried.returncode == 0 else tried.stdout.strip() or f"{_PROGRAM} ended with {tried.returncode}"
