"""Tests of the autopilots' log and of deciding it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.predict.autopilot_log import AutopilotLog, AutopilotLogTaken
from services.predict.autopilot_replay import BadLog, main, replay
from tests.support.flown import Machine, arrive_in_steps


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """What an autopilot did in virtual time when the load rose above what its engine can do."""
    machine = Machine()
    arrivals = arrive_in_steps(1, [(0.3 * machine.capacity, 3), (1.2 * machine.capacity, 6)], budget_us=1_000_000)
    flight = machine.fly(arrivals, 60_000)
    names = {"model": "net", "version": 1, "load": 1, "mode": "act", "policy": flight.policy}
    return [{**names, **one} for one in flight.records]


@pytest.fixture
def log(tmp_path: Path, records: list[dict[str, Any]]) -> Path:
    """The same as a file."""
    path = tmp_path / "autopilot.jsonl"
    written = AutopilotLog(path, bytes_max=1 << 30)
    written.write(records)
    written.close()
    return path


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def edit(log: Path, line: int, **changes: Any) -> None:
    lines = read_lines(log)
    lines[line - 1] = json.dumps({**json.loads(lines[line - 1]), **changes})
    log.write_text("\n".join(lines) + "\n")


def test_a_log_is_decided_again(log: Path, records: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    steps = list(replay(log))
    assert [step.record["number"] for step in steps] == [one["number"] for one in records]
    assert all(step.same for step in steps)
    assert main(["replay", str(log)]) == 0
    out = capsys.readouterr().out
    assert f"{len(records)} decisions" in out
    assert "all as logged" in out
    assert "net:1" in out


def test_a_decision_that_differs_ends_with_1(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decision = json.loads(read_lines(log)[4])["decision"]
    edit(log, 5, decision={**decision, "reason": "whim"})
    assert [step.line for step in replay(log) if not step.same] == [5]
    assert main(["replay", str(log)]) == 1
    assert "1 differ" in capsys.readouterr().out


def test_another_objective_leads_elsewhere(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert any(step.changes for step in replay(log))
    assert main(["replay", str(log), "--slo-p99-ms", "100000", "--all"]) == 1
    assert "differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"model": "net", ', "no JSON"),
        ("[1, 2]", "no object"),
        ("{}", "`model` is missing"),
        ('{"model": "net", "version": "1"}', "`version` is missing or no int"),
    ],
)
def test_a_bad_line_is_named(log: Path, line: str, says: str) -> None:
    count = len(read_lines(log))
    with log.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadLog, match=says) as caught:
        list(replay(log))
    assert f"{log}:{count + 1}:" in str(caught.value)


@pytest.mark.parametrize("name", ["policy", "before", "seen", "decision"])
@pytest.mark.parametrize("value", [None, 7, {}])
def test_a_record_without_its_parts_is_named(log: Path, name: str, value: Any) -> None:
    edit(log, 3, **{name: value})
    with pytest.raises(BadLog, match=rf":3: .*{name}"):
        list(replay(log))


def test_a_full_log_begins_anew_and_keeps_one_older(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AutopilotLog(path, bytes_max=200)
    for number in range(100):
        log.write([{"number": number, "text": "x" * 50}])
    log.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1"]
    numbers = [json.loads(line)["number"] for name in ("log.1", "log") for line in read_lines(tmp_path / name)]
    assert numbers == list(range(numbers[0], 100))
    assert all((tmp_path / name).stat().st_size < 400 for name in ("log", "log.1"))


def test_a_log_has_one_writer_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    log = AutopilotLog(tmp_path / "log", bytes_max=1000)
    log.write([{"number": 1}])
    with pytest.raises(AutopilotLogTaken, match="another node"):
        AutopilotLog(tmp_path / "log", bytes_max=1000)
    log.close()
    again = AutopilotLog(tmp_path / "log", bytes_max=1000)
    again.write([{"number": 2}])
    again.close()
    assert [json.loads(line)["number"] for line in read_lines(tmp_path / "log")] == [1, 2]


def test_a_log_that_cannot_be_opened_says_where(tmp_path: Path) -> None:
    with pytest.raises(AutopilotLogTaken, match="missing/log cannot be written"):
        AutopilotLog(tmp_path / "missing" / "log", bytes_max=1000)


def test_a_disk_that_refuses_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log = AutopilotLog(Path("/dev/full"), bytes_max=1000)
    for _ in range(3):
        log.write([{"number": 1}])
    assert [one.getMessage().split(":")[0] for one in caplog.records] == ["autopilot log /dev/full"]
    log.close()
