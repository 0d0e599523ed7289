"""The example that the README shows runs as it is shown."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'protos' / 'gen'}", "GRPC_VERBOSITY": "NONE"}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    """A node without an engine, in a process of its own, that finds one person in every frame."""
    flags = f"--name edge-0 --tier edge --grpc 127.0.0.1:0 --repository {tmp_path} --model nanodet"
    program = [sys.executable, str(REPOSITORY / "tests/support/fake_node.py"), *flags.split()]
    with subprocess.Popen(program, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready grpc="), line
            yield line.split()[1].removeprefix("grpc=")
        finally:
            process.kill()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(HERE / "detect.py"), *arguments]
    return subprocess.run(program, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.zeros((120, 160, 3), np.uint8))
    return str(path)


def test_it_prints_what_was_found_and_who_answered(target: str, photo: str) -> None:
    done = run(photo, target)
    assert (done.returncode, done.stderr) == (0, "")
    thing, answer = done.stdout.splitlines()
    assert thing.split() == ["person", "0.90", "[", "40", "30", "120", "90]"]
    assert answer.startswith("edge-0 answered in ")


def test_it_says_why_there_is_no_answer(photo: str) -> None:
    done = run(photo, "127.0.0.1:1")
    assert done.returncode == 1
    assert "no answer: <Unavailable UNAVAILABLE: cannot reach 127.0.0.1:1" in done.stderr


def test_it_says_how_it_is_called() -> None:
    done = run()
    assert done.returncode == 1
    assert "python tests/examples/detect.py photo.jpg [HOST:PORT]" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_short_enough_to_be_read() -> None:
    assert len((HERE / "detect.py").read_text("utf-8").splitlines()) <= 40
