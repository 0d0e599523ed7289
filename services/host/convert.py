"""Conversion of setting texts into typed values, chosen from a field's annotation."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from services.host.address import Address

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class FieldType:
    """How one field's text becomes its value.

    Attributes:
        item: converts one text; raises ValueError that says what was expected.
        metavar: placeholder for `--help`.
        is_list: the value is a tuple of items.
        is_flag: the flag takes no value.
        is_optional: an empty text means None.
    """

    item: Callable[[str], Any]
    metavar: str
    is_list: bool = False
    is_flag: bool = False
    is_optional: bool = False

    def convert(self, texts: Sequence[str]) -> Any:
        """Returns the value of the given texts: a tuple for lists, else the value of the only one.

        Raises:
            ValueError: a text does not spell a value; says what was expected.
        """
        if self.is_list:
            return tuple(self.item(text) for text in texts)
        if self.is_optional and texts[0] == "":
            return None
        return self.item(texts[0])


def read_field_type(annotation: Any) -> FieldType:
    """Returns the converter for a resolved annotation.

    Raises:
        TypeError: the annotation is none of the supported ones.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1 and len(kinds) < len(arguments):
            inner = read_field_type(kinds[0])
            return FieldType(inner.item, inner.metavar, is_optional=True)
    elif origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        inner = read_field_type(arguments[0])
        return FieldType(inner.item, inner.metavar, is_list=True)
    elif isinstance(annotation, type):
        if issubclass(annotation, StrEnum):
            return FieldType(_read_choice(annotation), "|".join(annotation))
        if annotation in _SCALARS:
            item, metavar = _SCALARS[annotation]
            return FieldType(item, metavar, is_flag=annotation is bool)
    raise TypeError(
        f"settings cannot be {annotation}; use str, int, float, bool, Path, Address, a StrEnum, "
        "one of these `| None`, or a tuple[…, ...] of one"
    )


def _read_choice(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def read(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"expected one of {', '.join(kind)}") from None

    return read


def _read_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _read_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("expected a number") from None
    if not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value


def _read_bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("expected true or false")
    return word in _TRUE


def _read_path(text: str) -> Path:
    if not text:
        raise ValueError("expected a path")
    return Path(text).expanduser()


_SCALARS: dict[type, tuple[Callable[[str], Any], str]] = {
    str: (str, "TEXT"),
    int: (_read_int, "N"),
    float: (_read_float, "X"),
    bool: (_read_bool, ""),
    Path: (_read_path, "PATH"),
    Address: (Address.parse, "HOST:PORT"),
}
