"""Checks for settings: each returns what it expected when a value is wrong, else None."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from services.host.address import Address


def at_least(low: float) -> Callable[[float], str | None]:
    """Returns a check for numbers that are `low` or more."""
    return lambda value: None if value >= low else f"a number >= {low:g}"


def above(low: float) -> Callable[[float], str | None]:
    """Returns a check for numbers that are more than `low`."""
    return lambda value: None if value > low else f"a number > {low:g}"


def between(low: float, high: float) -> Callable[[float], str | None]:
    """Returns a check for numbers from `low` to `high`, both included."""
    return lambda value: None if low <= value <= high else f"a number from {low:g} to {high:g}"


def each_of(known: Collection[str]) -> Callable[[tuple[str, ...]], str | None]:
    """Returns a check for words that are all known."""
    return lambda words: None if set(words) <= set(known) else f"one of {', '.join(known)}"


def readable_by(read: Callable[[str], object], expected: str) -> Callable[[tuple[str, ...]], str | None]:
    """Returns a check for texts that a function reads without a `ValueError`."""

    def check(texts: tuple[str, ...]) -> str | None:
        try:
            for text in texts:
                read(text)
        except ValueError as error:
            return f"{expected} ({error})"
        return None

    return check


def not_empty(value: str) -> str | None:
    """Checks that a text has at least one visible character."""
    return None if value.strip() else "a text that is not empty"


def existing_dir(value: Path) -> str | None:
    """Checks that a path is a directory that exists."""
    return None if value.is_dir() else "a directory that exists"


def existing_file(value: Path) -> str | None:
    """Checks that a path is a file that exists."""
    return None if value.is_file() else "a file that exists"


def reachable_port(value: Address) -> str | None:
    """Checks that an address can be connected to: port 0 is only good for listening."""
    return None if value.port > 0 else "an address with a port from 1 to 65535"
