"""What the fleet's process tells the demo's, one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.demo.outcome import Outcome, read_outcome


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """The mesh has answered its first frame, during warm-up."""


@dataclass(frozen=True, slots=True)
class Started:
    """The measurement has started.

    Attributes:
        model: name, version, engine and licence of the model that answers.
        labels: names of its classes.
    """

    model: Mapping[str, str | int]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The measurement is over and every outcome has been told.

    Attributes:
        flown_s: its length.
    """

    flown_s: float


Message = FirstAnswer | Started | Ended | Outcome


def write_message(message: Message) -> str:
    """Returns the line of a message."""
    match message:
        case Outcome():
            return message.to_line()
        case FirstAnswer():
            return json.dumps({"first_answer": True})
        case Started(model, labels):
            return json.dumps({"model": dict(model), "labels": list(labels)})
        case Ended(flown_s):
            return json.dumps({"flown_s": flown_s})


def read_message(line: str) -> Message:
    """Returns the message of a line.

    Raises:
        ValueError: the line is none.
    """
    value: Any = json.loads(line)
    match value:
        case list():
            return read_outcome(value)
        case {"first_answer": True}:
            return FirstAnswer()
        case {"model": dict(model), "labels": list(labels)}:
            return Started(model, tuple(labels))
        case {"flown_s": float(flown_s)}:
            return Ended(flown_s)
    raise ValueError(f"found {line[:80]!r}; expected a message of the fleet")
