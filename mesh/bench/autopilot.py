"""An objective under a step of load: how long the 99th percentile stays over it, and how calmly it is brought back."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.assets import get_repository
from mesh.bench.repositories import copy_model
from mesh.bench.requests import write_frame_request
from mesh.bench.result import Bar, Result, Row, percentile
from mesh.bench.rig import Rig
from mesh.bench.traces import Arrival, poisson, write_trace

_MODEL = "nanodet"
_SIDE = 416
_SLO_MS = 100.0
_DEADLINE_S = 1.0  # callers would wait ten times as long as the objective
_QUIET_S, _LOUD_S = 6.0, 14.0
_QUIET, _LOUD = 0.3, 1.2
_CAPACITY_SECONDS = 3.0
_CALM_SECONDS = 3  # under the objective in a row, to be back under it
_RECOVERY_BAR_S = 3.0
_REVERSALS_BAR = 4
_LEVERS = ("batch_delay_us", "largest_bucket", "slots", "bound_us")
_ACT, _OFF = "act", "off"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request, since the beginning of the trace; `code` is gRPC's."""

    arrival_us: int
    took_us: int
    code: int

    @property
    def second(self) -> int:
        """Returns the second in which it ended."""
        return (self.arrival_us + self.took_us) // 1_000_000


async def run(rig: Rig) -> Result:
    """Measures the p99 of each second when the load steps from 0.3 to 1.2 of capacity, with and without autopilot."""
    source = get_repository(os.environ)
    request = write_frame_request(rig.folder, _MODEL, _SIDE, _SIDE)
    log = rig.folder / "autopilot.jsonl"
    repositories = {
        mode: copy_model(
            source, _MODEL, rig.folder / mode, {"starling.slo_p99_ms": f"{_SLO_MS:g}", "starling.autopilot": mode}
        )
        for mode in (_OFF, _ACT)
    }
    nodes = {
        _OFF: await rig.start_node(repositories[_OFF], _MODEL),
        _ACT: await rig.start_node(repositories[_ACT], _MODEL, flags=["--autopilot-log", str(log)]),
    }
    capacity = (await rig.load(nodes[_OFF], request, outstanding=3, seconds=_CAPACITY_SECONDS)).rps
    trace = write_trace(rig.folder / "step", _step(capacity))
    found: dict[str, Mapping[int, Sequence[Outcome]]] = {}
    for mode, node in nodes.items():
        outcomes = rig.folder / f"{mode}.outcomes"
        await rig.replay(node, request, trace, seconds=_QUIET_S + _LOUD_S, outcomes=outcomes)
        found[mode] = by_second(read_outcomes(outcomes))
    await rig.stop()  # the last decisions are written when the node ends
    reversals = count_reversals(read_settings(log))
    rows = [_row(second, found) for second in range(int(_QUIET_S + _LOUD_S))]
    p99_ms = [(second, get_p99_ms(found[_ACT].get(second, ()))) for second in range(int(_QUIET_S), len(rows))]
    bars = [
        Bar("seconds until the p99 is back under the objective", _RECOVERY_BAR_S, get_recovery_s(p99_ms), at_most=True),
        *(Bar(f"changes of direction of {lever}", _REVERSALS_BAR, reversals[lever], at_most=True) for lever in _LEVERS),
    ]
    over = sum(p99 > _SLO_MS for second, p99 in p99_ms if second >= _QUIET_S + _RECOVERY_BAR_S)
    notes = [
        f"{_MODEL} INT8 at {_SIDE}x{_SIDE} on one core, p99 of {_SLO_MS:g} ms wanted, callers wait {_DEADLINE_S:g} s;",
        f"Poisson arrivals, {_QUIET:g} and from second {_QUIET_S:g} on {_LOUD:g} of a capacity of {capacity:.0f}/s;",
        "p99 as callers see it, by the second of the answer;",
        f"back is the first of {_CALM_SECONDS} seconds in a row under the objective;",
        f"{over} of the {_LOUD_S - _RECOVERY_BAR_S:g} seconds after the bar were over it",
    ]
    return Result(name="autopilot", rows=rows, bars=bars, notes=notes)


def read_outcomes(path: Path) -> list[Outcome]:
    """Returns what `starling-replay` wrote."""
    return [Outcome(*map(int, line.split())) for line in path.read_text().splitlines()]


def by_second(outcomes: Sequence[Outcome]) -> Mapping[int, Sequence[Outcome]]:
    """Returns outcomes by the second in which they came."""
    found = defaultdict(list)
    for outcome in outcomes:
        found[outcome.second].append(outcome)
    return found


def get_p99_ms(outcomes: Sequence[Outcome]) -> float:
    """Returns the 99th percentile of what was answered; 0 without answers."""
    times = [outcome.took_us for outcome in outcomes if outcome.code == 0]
    return percentile(times, 99) / 1e3 if times else 0.0


def get_recovery_s(p99_ms: Sequence[tuple[int, float]], slo_ms: float = _SLO_MS) -> float:
    """Returns how many seconds passed before the first few in a row under the objective; infinity if none did.

    >>> get_recovery_s([(6, 300.0), (7, 150.0), (8, 90.0), (9, 80.0), (10, 70.0)], 100.0)
    2.0
    """
    for i in range(len(p99_ms) - _CALM_SECONDS + 1):
        if all(p99 <= slo_ms for _, p99 in p99_ms[i : i + _CALM_SECONDS]):
            return float(p99_ms[i][0] - p99_ms[0][0])
    return math.inf


def read_settings(log: Path) -> list[Mapping[str, int]]:
    """Returns what was applied at each step of a node's only autopilot."""
    return [json.loads(line)["seen"]["applied"] for line in log.read_text().splitlines()]


def count_reversals(settings: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Returns how often each lever changed its direction.

    >>> still = dict.fromkeys(_LEVERS, 0)
    >>> count_reversals([{**still, "slots": 2}, {**still, "slots": 1}, {**still, "slots": 2}])["slots"]
    1
    """
    found = {}
    for lever in _LEVERS:
        # No bound on admission is the widest of all.
        values = [one[lever] or (math.inf if lever == "bound_us" else 0) for one in settings]
        rises = [a < b for a, b in itertools.pairwise(values) if a != b]
        found[lever] = sum(a != b for a, b in itertools.pairwise(rises))
    return found


def _step(capacity: float) -> list[Arrival]:
    quiet = poisson(_QUIET * capacity, _QUIET_S, _DEADLINE_S, seed=11)
    loud = poisson(_LOUD * capacity, _LOUD_S, _DEADLINE_S, seed=12)
    after = round(_QUIET_S * 1e6)
    return [*quiet, *(Arrival(one.at_us + after, one.deadline_us) for one in loud)]


def _row(second: int, found: Mapping[str, Mapping[int, Sequence[Outcome]]]) -> Row:
    row: dict[str, str | float | int] = {"second": second, "load": _QUIET if second < _QUIET_S else _LOUD}
    for mode, outcomes in found.items():
        here = outcomes.get(second, ())
        row[f"p99 ms, {mode}"] = get_p99_ms(here)
        row[f"answered, {mode}"] = sum(outcome.code == 0 for outcome in here)
        row[f"refused, {mode}"] = sum(outcome.code != 0 for outcome in here)
    return row
