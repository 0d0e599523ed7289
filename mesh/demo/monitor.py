"""Listens to the fleet and shows the run while it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import nullcontext

from rich.console import Console
from rich.live import Live

from mesh.demo.messages import Ended, FirstAnswer, Started, read_message
from mesh.demo.outcome import Outcome
from mesh.demo.report import Report, build_report
from mesh.demo.table import build_line, build_table
from mesh.machine import read_process_age_s

_REFRESH_S = 0.25  # a few milliseconds of one core each time
_LINE_EVERY_S = 5.0


class Monitor:
    """Collects what the fleet tells.

    Attributes:
        first_answer_s: age of this process at the first answer of the mesh; None before.
        started: what the fleet said when the measurement started.
        ended: what it said at its end; None if it never came to it.
        outcomes: every frame so far.
        events: what else happened, such as a node that left; one line each.
    """

    def __init__(self, console: Console, title: str, seconds: float) -> None:
        self._console, self._title, self._seconds = console, title, seconds
        self._started_at = 0.0
        self.first_answer_s: float | None = None
        self.started: Started | None = None
        self.ended: Ended | None = None
        self.outcomes: list[Outcome] = []
        self.events: list[str] = []

    def hear(self, line: str) -> None:
        """Takes one line of the fleet's output."""
        message = read_message(line)
        match message:
            case Outcome():
                self.outcomes.append(message)
            case FirstAnswer():
                self.first_answer_s = round(read_process_age_s(), 2)
                self._print(f"first frame answered after {self.first_answer_s:.1f} s")
            case Started():
                self.started = message
                self._started_at = time.monotonic()
            case Ended():
                self.ended = message

    def note(self, event: str) -> None:
        """Takes and shows something that happened to the mesh."""
        at = f"{time.monotonic() - self._started_at:.1f} s: " if self.started else ""
        self.events.append(at + event)
        self._print(f"[yellow]![/] {at}{event}")

    def build_report(self, tier_by_node: Mapping[str, str]) -> Report:
        """Returns the aggregate of what was told so far."""
        if self.ended is not None:
            flown_s = self.ended.flown_s
        else:
            flown_s = time.monotonic() - self._started_at if self.started else 0.0
        return build_report(self.outcomes, tier_by_node, flown_s)

    async def show(self, tier_by_node: Mapping[str, str]) -> None:
        """Shows the run until cancelled: a live table on a terminal, else a line now and then."""
        terminal = self._console.is_terminal
        live = Live(console=self._console, auto_refresh=False, transient=True)
        with live if terminal else nullcontext():
            while True:
                await asyncio.sleep(_REFRESH_S if terminal else _LINE_EVERY_S)
                report = self.build_report(tier_by_node)
                if terminal:
                    at = f"{report.flown_s:.0f} of {self._seconds:g} s"
                    live.update(build_table(report, f"{self._title}, {at}"), refresh=True)
                elif self.started is not None:
                    self._print(build_line(report))

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def __repr__(self) -> str:
        """Returns the number of frames and events."""
        return f"<Monitor outcomes={len(self.outcomes)} events={len(self.events)}>"
