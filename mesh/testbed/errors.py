"""The errors of the testbed: each says what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.errors import MeshError


class BadPlan(MeshError):
    """A plan of hosts and links contradicts itself.

    Attributes:
        problems: all of them.
    """

    status = "INVALID_ARGUMENT"
    reason = "BAD_TESTBED_PLAN"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("the testbed's plan cannot be: " + "; ".join(problems))


class TestbedMissing(MeshError):
    """No testbed of that name runs."""

    __test__ = False  # not a test, whatever its name begins with
    status = "NOT_FOUND"
    reason = "TESTBED_MISSING"

    def __init__(self, name: str, running: Sequence[str]) -> None:
        known = f"running: {', '.join(running)}" if running else "none runs"
        super().__init__(f"found no testbed {name!r}; {known}; `starling testbed up` starts one")


class ChangeRefused(MeshError):
    """A link could not be changed as asked; it stays as it was."""

    status = "INVALID_ARGUMENT"
    reason = "CHANGE_REFUSED"


class WireMissing(MeshError):
    """Network namespaces were asked for by name and cannot be had."""

    reason = "WIRE_MISSING"

    def __init__(self, why: str) -> None:
        super().__init__(f"this testbed needs network namespaces, and they cannot be had: {why}")
