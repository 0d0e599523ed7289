"""Owns the child processes of a mesh: starts them, notices the end of one, stops all in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from mesh.child import Child
from mesh.program import Program
from mesh.together import together


class Supervisor:
    """Holds every child of this process; leaving the context leaves no process behind.

    Children are stopped group by group in the reverse order of their start: what depends on others was started after
    them and ends before them. Nothing is restarted: who listens to `on_exit` decides.

    Args:
        on_exit: told once for each child that ends without having been asked to.
    """

    def __init__(self, on_exit: Callable[[Child], None] | None = None) -> None:
        self._on_exit = on_exit
        self._groups: list[list[Child]] = []
        self._watchers: dict[Child, asyncio.Task[None]] = {}

    @property
    def children(self) -> tuple[Child, ...]:
        """Every child that was started and not yet stopped, the oldest first."""
        return tuple(child for group in self._groups for child in group)

    async def start(self, programs: Iterable[Program]) -> Sequence[Child]:
        """Starts programs side by side and waits until all are ready; returns them in order.

        Raises:
            MeshError: one could not be started, ended early or was not ready in time.
        """
        children = await self.spawn(programs)
        await wait_ready(children)
        return children

    async def spawn(self, programs: Iterable[Program]) -> Sequence[Child]:
        """Starts programs without waiting until they are ready; they form one group.

        Raises:
            ProgramMissing: one cannot be executed.
        """
        group: list[Child] = []
        self._groups.append(group)
        for program in programs:
            child = await Child.start(program)
            group.append(child)
            self._watchers[child] = asyncio.create_task(self._watch(child))
        return tuple(group)

    async def stop(self) -> None:
        """Ends every child, the youngest group first, each group side by side."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        self._watchers.clear()
        while self._groups:
            await asyncio.gather(*(child.stop() for child in self._groups[-1]))
            self._groups.pop()

    async def kill(self) -> None:
        """Ends every child at once."""
        for watcher in self._watchers.values():
            watcher.cancel()
        await asyncio.gather(*(child.kill() for group in self._groups for child in group))

    async def _watch(self, child: Child) -> None:
        await child.wait()
        if self._on_exit is not None:
            self._on_exit(child)

    async def __aenter__(self) -> Self:
        """Returns itself; there is nothing to prepare."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops every child; kills them when this wait is cancelled too."""
        try:
            await self.stop()
        except asyncio.CancelledError:
            await self.kill()
            raise

    def __repr__(self) -> str:
        """Returns the children by group, oldest first."""
        groups = " | ".join(" ".join(child.name for child in group) for group in self._groups)
        return f"<Supervisor {groups or 'idle'}>"


async def wait_ready(children: Iterable[Child]) -> None:
    """Waits until all children are ready; the first failure ends the wait.

    Raises:
        MeshError: that failure.
    """
    await together(child.ready() for child in children)
