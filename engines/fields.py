"""Reads typed fields out of a text-format message and collects every problem instead of stopping at the first."""

import math
from collections.abc import Collection
from typing import NamedTuple

from engines.errors import InvalidConfig
from engines.textformat import Field, Message, Scalar


class Problem(NamedTuple):
    """One thing wrong with a file: where, which field, and what was found, expected and to be done."""

    line: int
    field: str
    text: str


class Problems:
    """The problems of one file; `raise_any` turns them into one error."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Problem] = []

    def add(self, line: int, field: str, text: str) -> None:
        """Remembers one problem."""
        self.found.append(Problem(line, field, text))

    def raise_any(self) -> None:
        """Raises `InvalidConfig` with one line per problem, in file order, if there are any."""
        if not self.found:
            return
        found = sorted(self.found)
        text = "\n".join(f"{self.path}:{one.line}: {one.text}" for one in found)
        raise InvalidConfig(text, path=self.path, line=found[0].line, field=found[0].field)


class Fields:
    """The fields of one message. Ask for each known one, then `finish`: what was not asked for is refused.

    A wrong or missing value becomes a problem and a harmless stand-in is returned, so that reading goes on.
    """

    def __init__(self, message: Message, prefix: str, problems: Problems) -> None:
        self._message = message
        self._prefix = prefix
        self._problems = problems
        self._known: list[str] = []
        self.line = message.line

    def line_of(self, name: str) -> int:
        """Returns the line where `name` is first given, or the message's line when it is not."""
        return next(
            (field.line for field in self._message.fields if field.name == name),
            self.line,
        )

    def has(self, name: str) -> bool:
        """Returns whether the field is given at all, even as an empty list."""
        return any(field.name == name for field in self._message.fields)

    def string(self, name: str, default: str | None = None, *, among: Collection[str] = ()) -> str:
        """Returns a quoted string; required when there is no default."""
        value = self._scalar(name, default is None)
        if value is None:
            return default or ""
        if value.kind != "string":
            self._wrong(value, name, f"`{value.text}`", 'a string in quotes, such as "text"')
            return default or ""
        if among and value.text not in among:
            self._wrong(value, name, f'"{value.text}"', f"one of {', '.join(sorted(among))}")
        return value.text

    def word(self, name: str, among: Collection[str], default: str | None = None) -> str:
        """Returns a bare word out of `among`; required when there is no default."""
        fallback = default if default is not None else next(iter(among))
        value = self._scalar(name, default is None)
        if value is None:
            return fallback
        if value.kind != "word" or value.text not in among:
            self._wrong(value, name, f"`{value.text}`", f"one of {', '.join(among)}")
            return fallback
        return value.text

    def integer(self, name: str, default: int | None, least: int, most: int) -> int:
        """Returns an integer in [least, most]; required when there is no default."""
        value = self._scalar(name, default is None)
        fallback = default if default is not None else least
        return fallback if value is None else self._integer(value, name, least, most, fallback)

    def integers(self, name: str, least: int, most: int, *, required: bool = False) -> tuple[int, ...]:
        """Returns every value of a repeated integer, in file order."""
        if required and not self.has(name):
            self._missing(name)
        values = [value for field in self._named(name) for value in field.values]
        result = []
        for value in values:
            if isinstance(value, Message):
                self._wrong(value, name, "a message", "an integer")
            else:
                result.append(self._integer(value, name, least, most, least))
        return tuple(result)

    def messages(self, name: str) -> list["Fields"]:
        """Returns every message of a repeated field, in file order."""
        result = []
        for value in (value for field in self._named(name) for value in field.values):
            if isinstance(value, Message):
                result.append(Fields(value, f"{self._prefix}{name}.", self._problems))
            else:
                self._wrong(value, name, f"`{value.text}`", "a message in braces")
        return result

    def message(self, name: str) -> "Fields | None":
        """Returns the message of a field that may be given once, or None."""
        found = self.messages(name)
        if len(found) > 1:
            self._problems.add(
                found[1].line,
                self._prefix + name,
                f"`{self._prefix}{name}` is given {len(found)} times; give it once",
            )
        return found[0] if found else None

    def finish(self) -> None:
        """Makes a problem of every field that nobody has asked for."""
        for field in self._message.fields:
            if field.name not in self._known:
                full = self._prefix + field.name
                self._problems.add(
                    field.line,
                    full,
                    f"unknown field `{full}`; known here: {', '.join(sorted(self._known))};"
                    " remove it or correct its name",
                )

    def refuse(self, name: str, text: str) -> None:
        """Remembers that what `name` says cannot be, at the line that says it."""
        self._problems.add(self.line_of(name), self._prefix + name, text)

    def _named(self, name: str) -> list[Field]:
        if name not in self._known:
            self._known.append(name)
        return [field for field in self._message.fields if field.name == name]

    def _missing(self, name: str) -> None:
        full = self._prefix + name
        self._problems.add(self.line, full, f"`{full}` is missing; it is required, add it")

    def _wrong(self, value: Scalar | Message, name: str, found: str, expected: str) -> None:
        full = self._prefix + name
        self._problems.add(
            value.line,
            full,
            f"`{full}` is {found}; expected {expected}; change the value",
        )

    def _scalar(self, name: str, required: bool) -> Scalar | None:
        named = self._named(name)
        values = [value for field in named for value in field.values]
        if not values:
            if required:
                self._missing(name)
            return None
        if len(values) > 1:
            self._wrong(values[1], name, f"given {len(values)} times", "one value")
        if isinstance(values[0], Message):
            self._wrong(values[0], name, "a message", "one value")
            return None
        return values[0]

    def _integer(self, value: Scalar, name: str, least: int, most: int, fallback: int) -> int:
        try:
            number = int(value.text, 0) if value.kind == "number" else None
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            self._wrong(value, name, f"`{value.text}`", f"an integer from {least} to {most}")
            return fallback
        return number


def read_number(text: str, least: float, most: float) -> float | None:
    """Returns `text` as a finite number in [least, most], or None.

    >>> read_number("0.5", 0, 1), read_number("nan", 0, 1)
    (0.5, None)
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and least <= number <= most else None
