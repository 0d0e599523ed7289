"""Finds processes of a test by a word of their command line, such as a temporary folder."""

from __future__ import annotations

import time
from pathlib import Path


def find_processes(word: str) -> dict[int, str]:
    """Returns the command lines of running processes that contain a word, by process id."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in command:
            found[int(folder.name)] = command
    return found


def wait_for_none(word: str, timeout_s: float = 60.0) -> dict[int, str]:
    """Waits until no process has the word; returns those that still do."""
    end = time.monotonic() + timeout_s
    while (left := find_processes(word)) and time.monotonic() < end:
        time.sleep(0.02)
    return left
