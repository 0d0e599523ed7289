"""What to start: a command line and how to know that it is ready."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Probe = Callable[[], Awaitable[Mapping[str, str] | None]]
"""Returns facts once the process is ready, None as long as it is not."""


@dataclass(frozen=True, slots=True)
class Program:
    """A child process that has not been started.

    Attributes:
        name: what people call it, such as `edge-1`.
        command: program and arguments; the program is a path or is found on PATH.
        probe: asked again and again until it returns facts; without one, readiness is a line
            `ready key=value ...` on standard output.
        ready_timeout_s: time to become ready.
        stop_signal: asks the process to end cleanly.
        stop_grace_s: time it gets for that, then SIGKILL.
        on_line: receives each line of standard output after the ready line; without it they are
            dropped.
        inherits_output: standard output and error go where ours go; then there is no readiness to
            wait for.
        log_file: where it writes its log, if not to standard error; only read for error texts.
        environ: the whole environment.
    """

    name: str
    command: tuple[str, ...]
    probe: Probe | None = None
    ready_timeout_s: float = 60.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 5.0
    on_line: Callable[[str], None] | None = None
    inherits_output: bool = False
    log_file: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


def parse_ready_line(line: str) -> dict[str, str] | None:
    """Returns the facts of a ready line, None for any other line.

    >>> parse_ready_line("ready grpc=127.0.0.1:8001 models=nanodet:1")
    {'grpc': '127.0.0.1:8001', 'models': 'nanodet:1'}
    >>> parse_ready_line("ready")
    {}
    >>> parse_ready_line("loading nanodet") is None
    True
    """
    head, *words = line.split() or [""]
    if head != "ready":
        return None
    return {key: value for key, _, value in (word.partition("=") for word in words)}
