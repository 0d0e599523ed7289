"""What a benchmark returns: rows for people, bars that hold or do not, and the machine they were measured on."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from mesh.machine import describe_machine, describe_versions

_WIDTH_UNSEEN = 140

Row = Mapping[str, str | float | int]


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that decides: `measured` must be at least (or at most) `bar`."""

    what: str
    bar: float
    measured: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        """Returns whether the bar holds; a figure that is not a number does not."""
        return self.measured <= self.bar if self.at_most else self.measured >= self.bar

    def to_json(self) -> dict[str, Any]:
        """Returns the bar as the report holds it."""
        sign = "<=" if self.at_most else ">="
        return {"what": self.what, "bar": f"{sign} {self.bar:g}", "measured": self.measured, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Result:
    """One benchmark's outcome."""

    name: str
    rows: Sequence[Row]
    bars: Sequence[Bar]
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Returns whether every bar holds."""
        return all(bar.holds for bar in self.bars)

    def to_json(self) -> dict[str, Any]:
        """Returns the report."""
        return {
            "name": self.name,
            "machine": {**describe_machine(), **describe_versions()},
            "settings": dict(self.settings),
            "rows": [dict(row) for row in self.rows],
            "bars": [bar.to_json() for bar in self.bars],
            "notes": list(self.notes),
        }

    def write(self, path: Path) -> None:
        """Writes the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Prints rows, bars and notes."""
        table = Table(title=self.name, title_justify="left", title_style="bold")
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*(_text(row.get(column, "")) for column in columns))
        console.print(table)
        for bar in self.bars:
            verdict = "[green]holds[/]" if bar.holds else "[red]does not hold[/]"
            sign = "at most" if bar.at_most else "at least"
            console.print(f"  {verdict}  {bar.what}: {_text(bar.measured)}, {sign} {_text(bar.bar)}")
        for note in self.notes:
            console.print(f"  [dim]{note}[/]")


def open_console() -> Console:
    """Returns where results are shown; a file or a pipe has no width, so that tables are written whole."""
    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH_UNSEEN)


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the nearest-rank percentile, which is one of the values; not a number without any.

    >>> percentile([4, 1, 3, 2], 50), percentile([4, 1, 3, 2], 99)
    (2, 4)
    """
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)] if values else math.nan


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median and the extremes of repeated measurements.

    >>> spread([3.0, 1.0, 2.0])
    {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or value == int(value):
        return f"{value:,.0f}"
    if abs(value) < 0.1:
        return f"{value:.2g}"  # three places would show 0.0005 as 0.001
    return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
