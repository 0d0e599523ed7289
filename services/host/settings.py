"""Settings of a process: one frozen dataclass, read once from flags and `STARLING_*` variables.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class NodeSettings:
        env_prefix: ClassVar[str] = "NODE"
        repository: Path = setting(help="folder with the models", metavar="DIR")
        queue_max: int = setting(512, help="requests that may wait", check=at_least(1))

    settings = read_settings(NodeSettings, argv, os.environ, prog="starling node", description="…")

`--queue-max 64` wins over `STARLING_NODE_QUEUE_MAX=64`, which wins over the default. Every problem
is reported, not only the first. A class may define `conflicts() -> Iterable[str]` for settings that
contradict each other. Fields may be str, int, float, bool, Path, Address, a StrEnum, any of these
`| None`, and a tuple of them: a flag that repeats, or a variable with commas.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from services.host.flags import parse_flags
from services.host.problems import Problem, SettingsError
from services.host.setting import SettingInfo, Settings, describe_settings, setting

__all__ = [
    "Problem",
    "SettingInfo",
    "Settings",
    "SettingsError",
    "describe_settings",
    "read_settings",
    "setting",
]

S = TypeVar("S", bound=Settings)


def read_settings(
    cls: type[S],
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    prog: str,
    description: str,
    examples: Sequence[str] = (),
) -> S:
    """Returns the settings that flags, environment and defaults give, flags first.

    Args:
        cls: a frozen dataclass whose fields are declared with `setting`, with `env_prefix`.
        argv: arguments after the command's name.
        environ: environment; only `STARLING_<env_prefix>_*` is read, and unknown names are refused.
        prog: how the command is called, for `--help` and errors.
        description: what it does, for `--help`, which prints and exits with 0.
        examples: command lines for `--help`.

    Raises:
        SettingsError: lists every unknown, missing, malformed or contradictory setting.
        SystemExit: after `--help`.
    """
    infos = describe_settings(cls)
    flags, problems = parse_flags(infos, argv, prog=prog, description=description, examples=examples)
    problems.extend(_unknown_variables(infos, environ, f"STARLING_{cls.env_prefix}_"))
    values: dict[str, Any] = {}
    for info in infos:
        texts, where = _pick(info, flags.get(info.name), environ)
        if texts is None:
            if info.required:
                todo = f"give {info.flag} {info.metavar} or set {info.variable}"
                problems.append(Problem(info.flag, "", "it is required", todo))
            else:
                values[info.name] = info.default
            continue
        try:
            value = info.type.convert(texts)
        except ValueError as error:
            problems.append(Problem(where, _quote(texts), str(error), ""))
            continue
        expected = None if info.check is None or value is None else info.check(value)
        if expected is not None:
            problems.append(Problem(where, _quote(texts), f"expected {expected}", info.help))
        values[info.name] = value
    if problems:
        raise SettingsError(prog, problems)
    settings = cls(**values)
    conflicts = getattr(settings, "conflicts", None)
    if conflicts is not None:
        problems = [Problem("settings contradict", "", text, "") for text in conflicts()]
    if problems:
        raise SettingsError(prog, problems)
    return settings


def _unknown_variables(infos: Sequence[SettingInfo], environ: Mapping[str, str], prefix: str) -> list[Problem]:
    known = [info.variable for info in infos]
    problems = []
    for name in sorted(environ):
        if name.startswith(prefix) and name not in known:
            close = difflib.get_close_matches(name, known, 1)
            todo = f"did you mean {close[0]}?" if close else f"unset {name}"
            problems.append(Problem(name, repr(environ[name]), "no such setting", todo))
    return problems


def _pick(info: SettingInfo, flag_texts: list[str] | None, environ: Mapping[str, str]) -> tuple[list[str] | None, str]:
    """Returns the texts of one setting and where they came from; no texts means: not given."""
    if flag_texts is not None:
        return flag_texts if info.type.is_list else flag_texts[-1:], info.flag
    text = environ.get(info.variable)
    if text is None:
        return None, info.variable
    if info.type.is_list:
        return [part.strip() for part in text.split(",") if part.strip()], info.variable
    return [text], info.variable


def _quote(texts: Sequence[str]) -> str:
    return ", ".join(repr(text) for text in texts) or "nothing"
