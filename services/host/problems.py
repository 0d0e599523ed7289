"""What is wrong with the settings of a process, said all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the given settings.

    Attributes:
        where: the flag or variable that holds it.
        found: what was there.
        expected: what would be right.
        todo: what to do about it.
    """

    where: str
    found: str
    expected: str
    todo: str

    def __str__(self) -> str:
        """Returns the problem as one line."""
        parts = [f"found {self.found}" if self.found else "", self.expected, self.todo]
        return f"{self.where}: " + "; ".join(part for part in parts if part)


class SettingsError(Exception):
    """The process cannot start with these settings; lists every problem.

    Attributes:
        prog: command that was started.
        problems: what is wrong, at least one.
    """

    status = "INVALID_ARGUMENT"
    reason = "INVALID_SETTINGS"
    exit_code = 2

    def __init__(self, prog: str, problems: Sequence[Problem]) -> None:
        self.prog = prog
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__(f"{prog} cannot start, {count}:\n{lines}\nSee `{prog} --help`.")
