"""Asks running wires and changes their links."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh.testbed.errors import ChangeRefused, TestbedMissing

_PREFIX = "starling-testbed/"
_ANSWER_BYTES_MAX = 1 << 20
_TIMEOUT_S = 5.0


def find_testbeds() -> tuple[str, ...]:
    """Returns the names of the testbeds that run on this machine."""
    names = set()
    for line in Path("/proc/net/unix").read_text("utf-8", "replace").splitlines():
        _, at, name = line.partition("@" + _PREFIX)
        if at:
            names.add(name.strip())
    return tuple(sorted(names))


def ask(name: str, question: str) -> str:
    """Returns a wire's answer to one question.

    Raises:
        TestbedMissing: no testbed of that name runs, or it ended meanwhile.
        ChangeRefused: it answered with an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect("\0" + _PREFIX + name)
            connection.send(question.encode())
            answer = connection.recv(_ANSWER_BYTES_MAX).decode()
        except OSError as error:
            raise TestbedMissing(name, find_testbeds()) from error
    if not answer:  # wires answer only their own user and root
        raise ChangeRefused(f"testbed {name!r} does not answer user {os.geteuid()}; expected the one who started it")
    word, _, why = answer.partition(" ")
    if word == "error":
        raise ChangeRefused(f"testbed {name!r}: {why}")
    return answer


def read_status(name: str) -> Mapping[str, Any]:
    """Returns everything about a running testbed.

    Raises:
        TestbedMissing: no testbed of that name runs.
    """
    status: Mapping[str, Any] = json.loads(ask(name, "show"))
    return status


def build_change(link: str, towards: str | None, values: Mapping[str, float]) -> str:
    """Returns the statement that changes a link.

    >>> build_change("edge-cloud", "cloud", {"delay_ms": 80})
    'set edge-cloud towards cloud delay_ms=80'
    """
    words = ["set", link, *(["towards", towards] if towards else [])]
    return " ".join([*words, *(f"{key}={value:.10g}" for key, value in values.items())])
