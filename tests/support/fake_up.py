"""`starling up` with fake nodes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FAKE_MESH = Path(__file__).with_name("fake_mesh.py")


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """Runs it in a folder on free ports; every process of it has the folder in its command line."""
    repository = folder / "repository"
    (repository / "nanodet").mkdir(parents=True)
    (repository / "nanodet" / "config.pbtxt").touch()
    addresses = ("--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0")
    places = ("--repository", str(repository), "--out", str(folder / "out"))
    process = subprocess.Popen(
        [sys.executable, str(_FAKE_MESH), "up", *addresses, *places, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """Returns its output up to the line with these words."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if words in line:
            return text
    raise AssertionError(f"no {words!r} in {text}; {process.communicate()}")
