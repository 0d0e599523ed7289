"""The log of a node's autopilots: one JSON object a line for each step, complete enough to be decided again."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

_log = logging.getLogger(__name__)


class AutopilotLogTaken(Exception):
    """The log cannot be written here."""

    status = "FAILED_PRECONDITION"
    reason = "AUTOPILOT_LOG_TAKEN"


class AutopilotLog:
    """Appends records to a file of one node. A full file becomes `PATH.1`, in place of the one before it.

    A version that is unloaded takes what was not written yet with it, at most its last second.

    Args:
        bytes_max: the file is full at this size; both together take twice as much, and a record more.

    Raises:
        AutopilotLogTaken: the file cannot be opened, or another process writes to it.
    """

    def __init__(self, path: Path, *, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._works = True
        self._file = _open(path)

    def __repr__(self) -> str:
        return f"<AutopilotLog {self._path}>"

    def write(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Appends one line each. A disk that refuses is logged once: the node serves on without its log."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            for record in records:
                if self._file.tell() >= self._bytes_max:
                    self._rotate()
                self._file.write(json.dumps({"time": time, **record}, separators=(",", ":")) + "\n")
            self._file.flush()
            self._works = True
        except (OSError, AutopilotLogTaken) as error:
            if self._works:
                _log.error("autopilot log %s: %s; decisions are lost until it can be written", self._path, error)
            self._works = False

    def close(self) -> None:
        """Writes what is buffered and lets the file go."""
        try:
            self._file.close()
        except OSError as error:
            _log.error("autopilot log %s: %s", self._path, error)

    def _rotate(self) -> None:
        self._file.flush()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        full, self._file = self._file, _open(self._path)
        full.close()


def _open(path: Path) -> TextIO:
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise AutopilotLogTaken(
            f"autopilot log {path} cannot be written: {error.strerror}; name another with --autopilot-log"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise AutopilotLogTaken(
            f"autopilot log {path} is written by another node; name one for each with --autopilot-log"
        ) from error
    return file
