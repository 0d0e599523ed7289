"""How long work tells the operator where it stands."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars

# Called with the amount done so far.
Report = Callable[[int], None]


class Progress(Protocol):
    """Shows steps of work; every step has a name, a total and an amount done."""

    def download(self, what: str, total_bytes: int, /) -> AbstractContextManager[Report]:
        """Shows a step measured in bytes."""

    def step(self, what: str, total: int, /) -> AbstractContextManager[Report]:
        """Shows a step measured in pieces."""

    def note(self, text: str, /) -> None:
        """Shows one line that stays."""


class SilentProgress:
    """Shows nothing; for tests and for scripts."""

    @contextmanager
    def download(self, _what: str, _total_bytes: int, /) -> Iterator[Report]:
        """Shows nothing."""
        yield _ignore

    @contextmanager
    def step(self, _what: str, _total: int, /) -> Iterator[Report]:
        """Shows nothing."""
        yield _ignore

    def note(self, _text: str, /) -> None:
        """Shows nothing."""


class BarProgress:
    """Bars on a terminal; on anything else one line per finished step."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def download(self, what: str, total_bytes: int, /) -> Iterator[Report]:
        """Shows a bar with bytes."""
        bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        with self._bar(bars, what, total_bytes) as report:
            yield report

    @contextmanager
    def step(self, what: str, total: int, /) -> Iterator[Report]:
        """Shows a bar with a count."""
        bars = RichBars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
        )
        with self._bar(bars, what, total) as report:
            yield report

    def note(self, text: str, /) -> None:
        """Prints the line."""
        self._console.print(text, highlight=False)

    @contextmanager
    def _bar(self, bars: RichBars, what: str, total: int) -> Iterator[Report]:
        if not self._console.is_terminal:
            self._console.print(f"  {what} ...", highlight=False)
            yield _ignore
            return
        with bars:
            task = bars.add_task(f"  {what}", total=total)
            yield lambda done: bars.update(task, completed=min(done, total))


def _ignore(_done: int) -> None:
    pass
