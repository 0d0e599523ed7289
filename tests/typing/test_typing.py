"""Type checkers see what `assert_type` files say they see."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("path", sorted(HERE.glob("*_types.py")), ids=lambda path: path.stem)
def test_types_are_as_written(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", path],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
