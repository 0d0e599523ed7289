"""The command line of a settings class: flags in, texts per field out."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from services.host.problems import Problem
from services.host.setting import SettingInfo

_EXAMPLES = "examples:"


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports instead of exiting."""

    def error(self, message: str) -> Any:
        raise argparse.ArgumentError(None, message)


def name_words(argv: Sequence[str], flags: Iterable[str]) -> list[str]:
    """Returns a command line whose first words were given their flags, in this order.

    >>> name_words(["drain", "edge-1", "--wait-s", "5"], ("--action", "--name"))
    ['--action', 'drain', '--name', 'edge-1', '--wait-s', '5']
    """
    named, rest = [], list(argv)
    for flag in flags:
        if not rest or rest[0].startswith("-"):
            break
        named += [flag, rest.pop(0)]
    return [*named, *rest]


def parse_flags(
    infos: Sequence[SettingInfo], argv: Sequence[str], *, prog: str, description: str, examples: Sequence[str] = ()
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Returns the texts given per field, and what is wrong with the shape of the command line.

    Raises:
        SystemExit: after `--help`.
    """
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="\n  ".join([_EXAMPLES, *examples]) if examples else None,
        allow_abbrev=False,
        formatter_class=_load_formatter,
    )
    for info in infos:
        about = f"{info.help} ({'required' if info.required else _show(info)}; {info.variable})"
        options: dict[str, Any] = {"dest": info.name, "help": about.replace("%", "%%")}
        if info.type.is_flag:
            off = "--no-" + info.flag[2:]
            parser.add_argument(info.flag, action="append_const", const="true", **options)
            parser.add_argument(
                off,
                action="append_const",
                const="false",
                dest=info.name,
                help=argparse.SUPPRESS,
            )
        else:
            parser.add_argument(info.flag, action="append", metavar=info.metavar, **options)
    try:
        found, unknown = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        return {}, [Problem("command line", "", str(error), "")]
    names = [info.flag.lstrip("-") for info in infos]
    problems = []
    for word in unknown:
        flag = word.partition("=")[0]
        close = difflib.get_close_matches(flag.lstrip("-"), names, 1)  # dashes are alike in all of them
        todo = f"did you mean --{close[0]}?" if close else f"see `{prog} --help` for the flags"
        problems.append(Problem("command line", repr(word), "no such setting", todo))
    return {name: texts for name, texts in vars(found).items() if texts is not None}, problems


def _load_formatter(prog: str) -> argparse.HelpFormatter:
    """Returns the help formatter; rich is imported only when help is printed."""
    from rich.text import Text
    from rich_argparse import RawDescriptionRichHelpFormatter, RichHelpFormatter

    class Formatter(RawDescriptionRichHelpFormatter):
        help_markup = False  # brackets in a help text are brackets
        text_markup = False

        def _rich_fill_text(self, text: Text, width: int, indent: Text) -> Text:
            keeps_lines = text.plain.startswith(_EXAMPLES)
            fill = RawDescriptionRichHelpFormatter if keeps_lines else RichHelpFormatter
            return fill._rich_fill_text(self, text, width, indent)

    return Formatter(prog, max_help_position=32)


def _show(info: SettingInfo) -> str:
    """Returns a default as `--help` shows it."""
    if info.default in (None, (), ""):
        return "default: none"
    if isinstance(info.default, bool):
        return f"default: on; --no-{info.flag[2:]} turns it off" if info.default else "default: off"
    if isinstance(info.default, tuple):
        return "default: " + ",".join(str(item) for item in info.default)
    return f"default: {info.default}"
