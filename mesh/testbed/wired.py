"""The testbed of network namespaces: one process holds them and carries every packet between them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self, TypeVar

from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed.namespace import place_inside, run_inside
from mesh.testbed.plan import TestbedPlan
from mesh.testbed.status import LaneStatus, parse_lanes
from mesh.testbed.wire_control import ask, build_change, read_status
from services.host import Address

T = TypeVar("T")


class WiredTestbed:
    """Hosts as network namespaces, links as pairs of TUN devices. `start` makes one.

    Args:
        plan: what was started.
        namespaces: path of each host's network namespace.
    """

    what = "network namespaces joined by TUN devices"
    has_links = True

    def __init__(self, plan: TestbedPlan, namespaces: Mapping[str, str]) -> None:
        self._plan, self._namespaces = plan, namespaces

    @classmethod
    async def start(cls, plan: TestbedPlan, supervisor: Supervisor, program: str) -> Self:
        """Starts the wire and returns once all hosts and links are there.

        Raises:
            ChildFailed: another testbed of that name runs, or the kernel refused.
        """
        command = (program, plan.name, str(plan.seed), *plan.to_statements())
        await supervisor.start([Program(f"testbed {plan.name}", command, ready_timeout_s=20.0)])
        status = await asyncio.to_thread(read_status, plan.name)
        return cls(plan, {host["name"]: host["namespace"] for host in status["hosts"]})

    @property
    def plan(self) -> TestbedPlan:
        """The plan as it was started; what links are now, `read_lanes` tells."""
        return self._plan

    def get_namespace(self, host: str) -> str:
        """Returns the path of a host's network namespace, as `nsenter --net=PATH` takes it."""
        return self._namespaces[host]

    def get_address(self, host: str) -> str:
        """Returns the address that servers of a host listen on."""
        return self._plan.get_address(host)

    def place(self, host: str, program: Program) -> Program:
        """Returns the program such that it runs at a host."""
        return place_inside(self._namespaces[host], program)

    async def run(self, host: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns what a coroutine returns that runs with the network of a host."""
        return await run_inside(self._namespaces[host], start)

    async def reach(self, origin: str, host: str, target: Address) -> Address:  # noqa: ARG002
        """Returns the target itself: every host has one address, and the links are real."""
        return target if target.host != "0.0.0.0" else replace(target, host=self.get_address(host))  # noqa: S104

    async def change(self, link: str, *, towards: str | None = None, **values: float) -> None:
        """Changes values of a link's shape from now on, both ways or one.

        Raises:
            ChangeRefused: there is no such link or value.
        """
        await asyncio.to_thread(ask, self._plan.name, build_change(link, towards, values))

    async def read_lanes(self) -> Sequence[LaneStatus]:
        """Returns what the links are and have carried."""
        return parse_lanes(await asyncio.to_thread(read_status, self._plan.name))

    def __repr__(self) -> str:
        """Returns the name and the hosts."""
        return f"<WiredTestbed {self._plan.name} {' '.join(self._plan.hosts)}>"
