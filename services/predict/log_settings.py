"""Which of its messages a process logs, changed while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from engines import InvalidInput

LogValue = bool | int | str

_KINDS: dict[str, type] = {
    "log_info": bool,
    "log_warning": bool,
    "log_error": bool,
    "log_verbose_level": int,
    "log_format": str,
    "log_file": str,
}
_VERBOSE_MAX = 4
# Everything the standard error stream cannot be told to be.
_FIXED = {"log_format": "default", "log_file": ""}


class LogSettings:
    """Decides about every record of the root logger's handlers. Thread-safe.

    `log_verbose_level` of 1 or more lets debugging messages through, one for each control call among them.
    """

    def __init__(self, root: logging.Logger) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._values: dict[str, LogValue] = {
            "log_info": True,
            "log_warning": True,
            "log_error": True,
            "log_verbose_level": 0,
            **_FIXED,
        }
        for handler in root.handlers:
            handler.addFilter(self._passes)

    def change(self, changes: Mapping[str, LogValue]) -> dict[str, LogValue]:
        """Applies changes, all or none; returns every setting as it is now.

        Raises:
            InvalidInput: a setting is unknown, of another type, or cannot be changed.
        """
        for name, value in changes.items():
            _check(name, value)
        with self._lock:
            self._values.update(changes)
            verbose = int(self._values["log_verbose_level"])
            self._root.setLevel(logging.DEBUG if verbose else logging.INFO)
            return dict(self._values)

    def _passes(self, record: logging.LogRecord) -> bool:
        values = self._values
        if record.levelno >= logging.ERROR:
            return bool(values["log_error"])
        if record.levelno >= logging.WARNING:
            return bool(values["log_warning"])
        return bool(values["log_info"] if record.levelno >= logging.INFO else values["log_verbose_level"])


def _check(name: str, value: LogValue) -> None:
    kind = _KINDS.get(name)
    if kind is None:
        raise InvalidInput(f'log setting "{name}" is unknown; known: {", ".join(_KINDS)}; correct its name')
    if type(value) is not kind:
        raise InvalidInput(f'log setting "{name}" is {value!r}; expected a value of type {kind.__name__}')
    if name in _FIXED and value != _FIXED[name]:
        raise InvalidInput(
            f'log setting "{name}" cannot be {value!r}: messages go to standard error in one format;'
            " redirect it where the node is started"
        )
    if name == "log_verbose_level" and int(value) > _VERBOSE_MAX:
        raise InvalidInput(f'log setting "{name}" is {value}; expected 0 to {_VERBOSE_MAX}')
