"""Decides again what a node's autopilots decided, from their log.

`starling autopilot replay LOG` runs the same controller over what was seen, prints each decision with its reason, and
ends with 1 when one differs from the logged one. With --slo-p99-ms it says what another objective would have led to;
what was seen stays as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from engines import InvalidInput
from engines._core import autopilot_decide
from services.host import above, existing_file, name_words, read_settings, setting

# What a line must hold beside what the controller itself asks for.
_FIELDS: Mapping[str, type] = {
    "model": str,
    "version": int,
    "load": int,
    "mode": str,
    "number": int,
    **dict.fromkeys(("policy", "before", "seen", "decision"), dict),
}


class Action(StrEnum):
    """What to do."""

    REPLAY = "replay"


_EXAMPLES = (
    "starling node --repository /models --autopilot-log decisions.jsonl",
    "starling autopilot replay decisions.jsonl",
    "starling autopilot replay decisions.jsonl --slo-p99-ms 50",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """What `starling autopilot` needs to know."""

    env_prefix: ClassVar[str] = "AUTOPILOT"

    action: Action = setting(Action.REPLAY, help="what to do; also the first word of the command line")
    log: Path = setting(
        help="what a node wrote with --autopilot-log; also the second word", metavar="LOG", check=existing_file
    )
    slo_p99_ms: float | None = setting(
        None, help="decide by this objective instead of the logged one", metavar="MS", check=above(0)
    )
    all: bool = setting(False, help="show steps that change nothing too")


class BadLog(Exception):
    """A line of the log is not what a node writes."""

    status = "INVALID_ARGUMENT"
    reason = "BAD_AUTOPILOT_LOG"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one model's autopilot: as logged, and decided again."""

    line: int
    record: Mapping[str, Any]
    decision: Mapping[str, Any]

    @property
    def same(self) -> bool:
        """Returns whether the decision is the logged one, with its reason and its figures."""
        return bool(self.decision == self.record["decision"])

    @property
    def changes(self) -> bool:
        """Returns whether one of both wants something to be changed."""
        applied = self.record["seen"]["applied"]
        return any(one["setting"] != applied for one in (self.decision, self.record["decision"]))


def main(argv: Sequence[str]) -> int:
    """Replays a log; returns 1 when a decision differs."""
    words = name_words(argv, ("--action", "--log"))
    settings = read_settings(
        ReplaySettings, words, os.environ, prog="starling autopilot", description=__doc__ or "", examples=_EXAMPLES
    )
    slo_p99_us = None if settings.slo_p99_ms is None else max(1, round(settings.slo_p99_ms * 1000))
    steps = list(replay(settings.log, slo_p99_us))
    different = sum(not step.same for step in steps)
    shown = [step for step in steps if settings.all or step.changes or not step.same]
    console = Console(soft_wrap=True)
    console.print(_table(shown, settings.log))
    verdict = f"[red]{different} differ[/]" if different else "[green]all as logged[/]"
    console.print(f"{len(steps)} decisions, {len(shown)} shown: {verdict}", highlight=False)
    return 1 if different else 0


def replay(log: Path, slo_p99_us: int | None = None) -> Iterator[Step]:
    """Yields every step of a log, decided again; by another objective, what it remembers is its own too.

    Raises:
        BadLog: a line is not a record; the message says which and why.
    """
    memories: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    with log.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            record = _read(log, number, line)
            policy, before = record["policy"], record["before"]
            key = (record["model"], record["version"], record["load"])
            if slo_p99_us is not None:
                policy = {**policy, "p99_us": slo_p99_us}
                before = memories.get(key, before)
            try:
                decision, after = autopilot_decide(policy, before, record["seen"])
            except InvalidInput as error:
                raise BadLog(f"{log}:{number}: {error}") from error
            memories[key] = after
            yield Step(number, record, decision)


def _read(log: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise BadLog(f"{log}:{number}: no JSON ({error}); was the file cut off? remove the line") from error
    if not isinstance(record, dict):
        raise BadLog(f"{log}:{number}: no object; expected a line that `starling node --autopilot-log` wrote")
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise BadLog(f"{log}:{number}: `{name}` is missing or no {kind.__name__}; is this an autopilot's log?")
    if not isinstance(record["decision"].get("setting"), dict):
        raise BadLog(f"{log}:{number}: `decision.setting` is missing; is this an autopilot's log?")
    return record


def _table(steps: Sequence[Step], log: Path) -> Table:
    table = Table(title=str(log), title_justify="left", title_style="bold")
    for column in ("line", "model", "mode", "seconds", "reason", "decision", "logged"):
        table.add_column(column, justify="right" if column in ("line", "seconds") else "left", overflow="fold")
    for step in steps:
        record, logged = step.record, step.record["decision"]
        table.add_row(
            str(step.line),
            f"{record['model']}:{record['version']}",
            record["mode"],
            f"{record['seen']['at_us'] / 1e6:.1f}",
            step.decision["reason"],
            step.decision["text"],
            "[green]same[/]" if step.same else f"[red]{logged.get('reason', '?')}: {logged.get('text', '?')}[/]",
        )
    return table
