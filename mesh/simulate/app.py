"""Plays scenarios in virtual time with the control plane's own policies, judges what came of them, and draws it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from random import Random
from typing import ClassVar

from mesh.bench.result import Bar, Result, Row, open_console
from mesh.control.simulation import Simulation
from mesh.simulate.judge import SWING, Verdict, judge
from mesh.simulate.plot import write_plot
from mesh.simulate.scenarios import SCENARIOS, Play
from services.host import at_least, between, each_of, name_words, read_settings, setting

SETTLE_S_MAX = 6.0
SWINGS_MAX = 10.0  # of the worst of 200 nodes; weights that chase each other turn 30 times
HUNGRY_S_MAX = 20.0  # 0.6 requests a second reach the worst node on average
_EXAMPLES = (
    "starling simulate",
    "starling simulate burst node-loss --scale 0.2",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSettings:
    """What `starling simulate` needs to know."""

    env_prefix: ClassVar[str] = "SIMULATE"

    name: tuple[str, ...] = setting(
        (),
        help="scenario to play, repeatable; all without",
        metavar="NAME",
        check=each_of(SCENARIOS),
    )
    seed: int = setting(0, help="of everything random", check=at_least(0))
    scale: float = setting(
        1.0, help="size of the fleet; 1 is 200 nodes and thousands of agents", check=between(0.05, 10)
    )
    out: Path = setting(Path("out/simulate"), help="folder for NAME.png and simulate.json", metavar="DIR")


def main(argv: Sequence[str]) -> int:
    """Runs `starling simulate`; returns 1 when something does not hold.

    Raises:
        SettingsError: a flag or a variable is wrong.
        MeshError: a picture cannot be written.
    """
    words = name_words(argv, repeat("--name"))
    about = f"{__doc__} Scenarios: {', '.join(SCENARIOS)}."
    settings = read_settings(
        SimulateSettings, words, os.environ, prog="starling simulate", description=about, examples=_EXAMPLES
    )
    console = open_console()
    verdicts: dict[str, tuple[Play, Verdict]] = {}
    for name in settings.name or tuple(SCENARIOS):
        with console.status(f"playing {name}"):
            play, simulation = run_scenario(name, settings.seed, settings.scale)
            verdicts[name] = play, judge(play, simulation)
            write_plot(settings.out / f"{name}.png", _title(name, play), play, simulation)
    result = build_result(verdicts)
    result.show(console)
    result.write(settings.out / "simulate.json")
    console.print(f"  pictures in {settings.out}", highlight=False)
    return 0 if result.holds else 1


def run_scenario(name: str, seed: int, scale: float) -> tuple[Play, Simulation]:
    """Returns a scenario and its finished simulation; the same for the same arguments."""
    play = SCENARIOS[name](Random(seed), scale)
    simulation = Simulation(play.nodes, seed)
    simulation.run(play.arrivals)
    return play, simulation


def build_result(verdicts: dict[str, tuple[Play, Verdict]]) -> Result:
    """Returns what came of the scenarios as a table, and what has to hold of each."""
    rows: list[Row] = []
    bars: list[Bar] = []
    for name, (play, verdict) in verdicts.items():
        rows.append(
            {
                "scenario": name,
                "nodes": len(play.nodes),
                "agents": play.agents,
                "requests": verdict.requests,
                "failed": f"{verdict.failed_ratio:.3%}",
                "p50 ms": verdict.p50_ms,
                "p95 ms": verdict.p95_ms,
                "p99 ms": verdict.p99_ms,
                "settles s": verdict.settle_s,
                "swings/min": verdict.swings,
                "hungry s": verdict.hungry_s,
            }
        )
        bars += [
            Bar(f"{name}: share of requests that failed", play.failed_max, verdict.failed_ratio, at_most=True),
            Bar(f"{name}: settles after a turn, s", SETTLE_S_MAX, verdict.settle_s, at_most=True),
            Bar(f"{name}: swings of a node's share, a minute", SWINGS_MAX, verdict.swings, at_most=True),
            Bar(f"{name}: longest time a node got nothing, s", HUNGRY_S_MAX, verdict.hungry_s, at_most=True),
        ]
    return Result(
        name="simulate",
        rows=rows,
        bars=bars,
        notes=(
            f"swings: turns of one node's share by {SWING:g} times or more, of the node that swings most",
            "settles: until the p95 of every second is within a quarter of what it comes to",
        ),
    )


def _title(name: str, play: Play) -> str:
    about = (SCENARIOS[name].__doc__ or "").strip()
    return f"{name}: {len(play.nodes)} nodes, {play.agents:,} agents\n{about}"
