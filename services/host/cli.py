"""The command line: `starling COMMAND …` finds the command and runs it."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from services.host.commands import Command, find_commands
from services.host.errors import describe_error, has_words
from services.host.settings import SettingsError

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_EXAMPLES = (
    ("starling demo --agents 12", "a fleet of cameras, answered live on this machine"),
    ("starling call nanodet --input frame=@photo.jpg --out result.png", "one picture, one answer"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status for the shell.

    Args:
        argv: arguments after the program's name; those of the process when None.

    Returns:
        What the command returned; 2 for a wrong command line, 1 for a failure that was explained,
        130 after Ctrl-C, 141 when the reader of the output went away.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # gRPC's core writes to stderr by itself, also when a peer merely leaves; read once, at its import.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        status = _run(arguments, find_commands())
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout again at exit; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_BROKEN_PIPE


def _run(arguments: Sequence[str], commands: Mapping[str, Command]) -> int:
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_build_overview(commands, bold=_is_terminal()))
        return 0
    if arguments[0] == "--version":
        print(f"starling {_read_version()}")
        return 0
    name, *rest = arguments
    if name not in commands:
        print(_explain_unknown(name, list(commands)), file=sys.stderr)
        return _EXIT_USAGE
    return _run_command(commands[name], rest)


def _run_command(command: Command, arguments: Sequence[str]) -> int:
    try:
        run = command.load()
    except (ImportError, AttributeError) as error:
        print(
            f"starling {command.name} cannot start: {error}\n"
            "A part is not built or not installed; `make setup build` does both.",
            file=sys.stderr,
        )
        return _EXIT_FAILED
    try:
        return run(arguments)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"starling {command.name}: cannot use {error.filename}: {error.strerror}; give another path, or mend it",
            file=sys.stderr,
        )
        return _EXIT_FAILED
    except Exception as error:
        if not has_words(error):
            raise
        print(f"starling {command.name}: {describe_error(error)}", file=sys.stderr)
        return _EXIT_FAILED


def _build_overview(commands: Mapping[str, Command], *, bold: bool) -> str:
    """Returns what `starling --help` prints."""
    width = max((len(name) for name in commands), default=0)
    mark, plain = ("\x1b[1m", "\x1b[0m") if bold else ("", "")
    lines = ["Answers a fleet's sensors inside the control tick, or says at once that it cannot."]
    lines += ["", f"{mark}Usage{plain}", "  starling COMMAND [flags]", "", f"{mark}Commands{plain}"]
    for name, command in commands.items():
        lines.append(f"  {mark}{name:<{width}}{plain}  {command.read_summary()}".rstrip())
    lines += ["", f"{mark}Examples{plain}"]
    for example, about in _EXAMPLES:
        lines += [f"  {example}", f"      {about}"]
    lines += ["", "`starling COMMAND --help` shows the flags of one command."]
    return "\n".join(lines)


def _explain_unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean `starling {close[0]}`?" if close else "expected one of: "
    tail = "" if close else ", ".join(known)
    return f"starling: no command {name!r}; {hint}{tail}"


def _is_terminal() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _read_version() -> str:
    try:
        return version("starling-mesh")
    except PackageNotFoundError:
        return "unknown (not installed)"


if __name__ == "__main__":
    sys.exit(main())
