"""Where the processes of a mesh run: all on this machine's own network, or each at a host of a testbed."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from mesh.program import Program

T = TypeVar("T")


class Hosts(Protocol):
    """Places to run programs, by the name of what runs there; `mesh.testbed` has others."""

    @property
    def has_links(self) -> bool:
        """Whether distance lies between the hosts by itself, so that no delay has to stand in for it."""

    def get_address(self, host: str) -> str:
        """Returns the address that servers of a host listen on."""

    def place(self, host: str, program: Program) -> Program:
        """Returns the program such that it runs at a host."""

    async def run(self, host: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Returns what a coroutine returns that runs with the network of a host."""


class ThisMachine:
    """Everything on loopback, side by side."""

    has_links = False

    def get_address(self, host: str) -> str:  # noqa: ARG002
        """Returns loopback."""
        return "127.0.0.1"

    def place(self, host: str, program: Program) -> Program:  # noqa: ARG002
        """Returns the program itself."""
        return program

    async def run(self, host: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:  # noqa: ARG002
        """Returns what the coroutine returns."""
        return await start()

    def __repr__(self) -> str:
        """Returns its name."""
        return "<ThisMachine>"


THIS_MACHINE = ThisMachine()
