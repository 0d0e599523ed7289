"""The declaration of one setting, and what can be read from it without any values."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, overload

from services.host.convert import FieldType, read_field_type

T = TypeVar("T")


class Settings(Protocol):
    """What every settings class has besides its fields.

    Attributes:
        env_prefix: the word between `STARLING_` and the field in variables, such as `NODE`.
    """

    env_prefix: ClassVar[str]


_META = "starling.setting"


@dataclass(frozen=True, slots=True)
class _Meta:
    help: str
    metavar: str | None
    check: Callable[[Any], str | None] | None


@overload
def setting(*, help: str, metavar: str | None = None, check: Callable[[Any], str | None] | None = None) -> Any: ...
@overload
def setting(
    default: T,
    *,
    help: str,
    metavar: str | None = None,
    check: Callable[[Any], str | None] | None = None,
) -> T: ...
def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002  # the word of argparse, known to every reader
    metavar: str | None = None,
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    """Declares one field of a settings class.

    Args:
        default: the value when neither flag nor variable is given; without one it is required.
        help: what it changes, with its unit; shown by `--help` and required.
        metavar: placeholder for the value in `--help`; chosen from the type when absent.
        check: returns what it expected when the value is wrong, None when it is right.
    """
    metadata = {_META: _Meta(help, metavar, check)}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What one setting is called and does, for `--help`, manifests and their tests.

    Attributes:
        name: field name, such as `queue_max`.
        flag: `--queue-max`.
        variable: `STARLING_NODE_QUEUE_MAX`.
        required: it has no default.
        default: the default, None when required.
        help: one line for people.
        metavar: placeholder for the value.
        type: converts text and says what it expects.
        check: see `setting`.
    """

    name: str
    flag: str
    variable: str
    required: bool
    default: Any
    help: str
    metavar: str
    type: FieldType
    check: Callable[[Any], str | None] | None


def describe_settings(cls: type[Any]) -> tuple[SettingInfo, ...]:
    """Returns one description per field of a settings class, in order.

    Raises:
        TypeError: a field was not declared with `setting`, or its type is not supported.
    """
    types = read_field_types(cls)
    infos = []
    for field in dataclasses.fields(cls):
        meta = field.metadata.get(_META)
        if meta is None:
            raise TypeError(f"{cls.__name__}.{field.name} is not declared with setting(...)")
        words = field.name.upper()
        required = field.default is dataclasses.MISSING
        infos.append(
            SettingInfo(
                name=field.name,
                flag="--" + field.name.replace("_", "-"),
                variable=f"STARLING_{cls.env_prefix}_{words}",
                required=required,
                default=None if required else field.default,
                help=meta.help,
                metavar=meta.metavar or types[field.name].metavar,
                type=types[field.name],
                check=meta.check,
            )
        )
    return tuple(infos)


def read_field_types(cls: type[Any]) -> dict[str, FieldType]:
    """Returns the converter of each field of a settings class."""
    hints = typing.get_type_hints(cls)
    return {field.name: read_field_type(hints[field.name]) for field in dataclasses.fields(cls)}
