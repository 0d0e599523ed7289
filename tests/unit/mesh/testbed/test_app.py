"""What `starling testbed` says to words that it does not take, and to plans that it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.testbed import BadPlan
from mesh.testbed.app import main


def test_help_shows_a_plan_as_it_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert '  [[link]]\n  between = ["edge", "cloud"]\n  delay_ms = 20\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "lte.toml"], "'lte.toml', which it does not take; a plan is a file given as --plan lte.toml"),
        (["up", "--plna", "x"], "'--plna x', which it does not take; see starling testbed up --help"),
        (["show", "everything"], "'everything', which it does not take; see starling testbed show --help"),
    ],
)
def test_words_that_are_not_taken_are_named_with_what_to_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"starling testbed {words[0]}: found {said}\n"


def test_a_plan_that_cannot_be_read_says_why_and_where_one_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "lte.toml"
    with pytest.raises(
        BadPlan, match=r"lte\.toml cannot be read: No such file or directory; `starling testbed --help`"
    ):
        main(["up", "--plan", str(path)])
    path.write_text("[[link]\n")
    with pytest.raises(BadPlan, match=r"lte\.toml is no TOML: .*line 1"):
        main(["up", "--plan", str(path)])
