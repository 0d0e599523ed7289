"""Scenarios of a fleet in virtual time: what they have to hold, over many seeds; and the command that plays them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.control.simulation import Answer, Change
from mesh.simulate.app import HUNGRY_S_MAX, SETTLE_S_MAX, build_result, main, run_scenario
from mesh.simulate.judge import count_turns, judge, p95_by_second
from mesh.simulate.scenarios import SCENARIOS

_SMALL = 0.1  # twenty nodes and some hundred agents


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fleet_settles_without_swinging_and_nobody_starves(name: str, seed: int) -> None:
    play, simulation = run_scenario(name, seed, _SMALL)
    verdict = judge(play, simulation)
    assert verdict.requests == len(play.arrivals)
    assert verdict.failed_ratio <= 2 * play.failed_max  # of twenty nodes one is five percent
    assert verdict.settle_s <= 2 * SETTLE_S_MAX
    assert verdict.swings <= 12
    assert verdict.hungry_s <= HUNGRY_S_MAX


def test_the_same_seed_plays_the_same() -> None:
    runs = [run_scenario("burst", 5, 0.05)[1] for _ in range(2)]
    assert runs[0].answers == runs[1].answers
    assert runs[0].changes == runs[1].changes


@pytest.mark.parametrize(
    ("path", "turns"),
    [
        ([], 0),
        ([1.0], 0),
        ([1, 2, 4, 8], 0),
        ([4, 2, 1], 0),
        ([1, 4, 1, 4], 2),
        ([1, 1.5, 1, 1.5, 1], 0),
        ([8, 1, 1.9, 2], 1),
    ],
)
def test_turns_are_counted_when_a_series_comes_back_by_half(path: list[float], turns: int) -> None:
    assert count_turns(path) == turns


def test_a_quantile_of_a_second_counts_by_when_it_was_asked() -> None:
    answers = [Answer(0.1, 5.0, "a"), Answer(1.5, 0.010, "a"), Answer(1.6, 0.020, ""), Answer(9.0, 1.0, "a")]
    assert p95_by_second(answers, 2.0) == [5.0, 0.010]


def test_a_mesh_that_swings_and_starves_is_found_out() -> None:
    play, simulation = run_scenario("node-loss", 0, 0.05)
    name = play.nodes[0].name
    other = play.nodes[1].name
    simulation.changes[:] = [Change(6.0 + i, {name: 0.1 if i % 2 else 0.9, other: 0.5}) for i in range(20)]
    simulation.answers[:] = [answer for answer in simulation.answers if answer.node != other]
    verdict = judge(play, simulation)
    assert verdict.swings > 20
    assert verdict.hungry_s > 30
    assert not build_result({"node-loss": (play, verdict)}).holds


def test_the_command_draws_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slow-nodes", "--scale", "0.1", "--out", str(tmp_path)]) in (0, 1)
    assert "slow-nodes" in capsys.readouterr().out
    assert (tmp_path / "slow-nodes.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "simulate.json").read_text())
    assert [row["scenario"] for row in report["rows"]] == ["slow-nodes"]
    assert {bar["holds"] for bar in report["bars"]} <= {True, False}


def test_an_unknown_scenario_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="one of diurnal, burst, node-loss"):
        main(["tsunami", "--out", str(tmp_path)])
