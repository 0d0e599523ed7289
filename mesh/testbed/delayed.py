"""The testbed without root: every host is this machine, and connections pass a TCP delay as long as their path."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mesh.child import Child
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed.errors import ChangeRefused, WireMissing
from mesh.testbed.plan import Link, Shape, TestbedPlan, with_shape
from mesh.testbed.status import LaneStatus
from services.host import Address

T = TypeVar("T")

_LOOPBACK = "127.0.0.1"
_GRACE_S = 0.5  # one that stands still, as its link is cut, is killed after it
_DELAY_COMMAND = (sys.executable, "-P", "-m", "mesh.delay")


class DelayedTestbed:
    """Shows the delay of links and partitions. It has no packets: jitter and rate are left out, loss is refused.

    Args:
        plan: what to show.
        supervisor: owns the delays.
        why: why there are no network namespaces.
        needs_wire: refuse instead of falling back.

    Raises:
        WireMissing: the plan or the caller needs packets.
    """

    has_links = False

    def __init__(self, plan: TestbedPlan, supervisor: Supervisor, why: str, *, needs_wire: bool = False) -> None:
        lossy = [link.name for link in plan.links if 0 < link.shape.loss < 1 or link.shape.reorder]
        if needs_wire or lossy:
            raise WireMissing(why + (f"; {', '.join(lossy)} loses or reorders packets" if lossy else ""))
        self._plan, self._supervisor, self._why = plan, supervisor, why
        self._delays: list[tuple[tuple[str, ...], Child]] = []  # links of the path, and the process that shows it

    @property
    def plan(self) -> TestbedPlan:
        """The plan as it is now."""
        return self._plan

    @property
    def what(self) -> str:
        """Which kind it is and why, for people."""
        left_out = "; jitter and rate are left out" if any(map(_has_more, self._plan.links)) else ""
        return f"TCP delays on this machine, as there are no network namespaces ({self._why}){left_out}"

    def get_address(self, host: str) -> str:  # noqa: ARG002
        """Returns the address that servers of a host listen on: loopback for all."""
        return _LOOPBACK

    def place(self, host: str, program: Program) -> Program:  # noqa: ARG002
        """Returns the program itself: every host is this machine."""
        return program

    async def run(self, host: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:  # noqa: ARG002
        """Returns what the coroutine returns."""
        return await start()

    async def reach(self, origin: str, host: str, target: Address) -> Address:
        """Starts a delay as long as the path before a server, and returns its address."""
        path = tuple(link.name for link in self._plan.get_path(origin, host))
        if not path:
            return target
        flags = ("--listen", f"{_LOOPBACK}:0", "--target", str(target), "--rtt-ms", f"{self._get_rtt_ms(path):g}")
        program = Program(
            f"delay {origin} to {host}", (*_DELAY_COMMAND, *flags), ready_timeout_s=20.0, stop_grace_s=_GRACE_S
        )
        (child,) = await self._supervisor.start([program])
        self._delays.append((path, child))
        self._apply(path, child)
        return Address.parse(child.facts["listen"])

    async def change(self, link: str, *, towards: str | None = None, **values: float) -> None:
        """Changes a link's delay from now on, or cuts it (loss 1) and heals it (loss 0).

        Raises:
            ChangeRefused: there is no such link or value, or it needs packets.
        """
        found = next((each for each in self._plan.links if each.name == link), None)
        if found is None:
            raise ChangeRefused(f"found no link {link!r}; expected {', '.join(e.name for e in self._plan.links)}")
        needs_packets = sorted(values.keys() - {"delay_ms", "loss"})
        if towards or needs_packets or 0 < values.get("loss", 0) < 1:
            raise ChangeRefused(f"link {link}: a TCP delay shows only delay_ms and loss 0 or 1, of both ways together")
        shape = replace(found.shape, **values)
        if problems := list(shape.problems()):
            raise ChangeRefused(f"link {link}: {'; '.join(problems)}")
        self._plan = with_shape(self._plan, link, shape)
        for path, child in self._delays:
            if link in path:
                self._apply(path, child)

    async def read_lanes(self) -> Sequence[LaneStatus]:
        """Returns what the links are; nobody counts packets that are not there."""
        lanes = []
        for link in self._plan.links:
            shown = Shape(delay_ms=link.shape.delay_ms, loss=link.shape.loss)
            for origin, to in ((link.a, link.b), (link.b, link.a)):
                lanes.append(LaneStatus(link.name, origin, to, shown, packets=0, bytes=0, lost=0, overflowed=0))
        return lanes

    def _apply(self, path: tuple[str, ...], child: Child) -> None:
        cut = any(link.shape.loss >= 1 for link in self._plan.links if link.name in path)
        child.send_line(f"rtt_ms {self._get_rtt_ms(path):g}")
        # A process that stands still carries nothing and loses nothing, as TCP does across a partition.
        child.send_signal(signal.SIGSTOP if cut else signal.SIGCONT)

    def _get_rtt_ms(self, path: tuple[str, ...]) -> float:
        return 2 * sum(link.shape.delay_ms for link in self._plan.links if link.name in path)

    def __repr__(self) -> str:
        """Returns the name and the hosts."""
        return f"<DelayedTestbed {self._plan.name} {' '.join(self._plan.hosts)}>"


def _has_more(link: Link) -> bool:
    return bool(link.shape.jitter_ms or link.shape.rate_mbit)
