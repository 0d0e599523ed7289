"""`starling` lists its commands, runs one, and ends like a shell command should."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from services.host import Problem, SettingsError, cli
from services.host.commands import Command, find_commands


class TooManyError(Exception):
    status = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"


def run_ok(argv: Sequence[str]) -> int:
    print("ran", *argv)
    return 3


def run_settings_error(argv: Sequence[str]) -> int:
    raise SettingsError("starling x", [Problem("--a", "'b'", "expected c", "")])


def run_known_error(argv: Sequence[str]) -> int:
    raise TooManyError("too many")


def run_unknown_error(argv: Sequence[str]) -> int:
    raise LookupError("a bug")


def run_into_a_file(argv: Sequence[str]) -> int:
    Path("/dev/null/out").mkdir()
    return 0


def run_interrupted(argv: Sequence[str]) -> int:
    raise KeyboardInterrupt


COMMANDS = {
    name: Command(name, f"{__name__}:{function.__name__}")
    for name, function in {
        "fine": run_ok,
        "unset": run_settings_error,
        "known": run_known_error,
        "file": run_into_a_file,
        "bug": run_unknown_error,
        "stop": run_interrupted,
    }.items()
} | {
    "unbuilt": Command("unbuilt", "services.no_such_module:main"),
    "unwritten": Command("unwritten", f"{__name__}:no_such_function"),
}

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(cli, "find_commands", lambda: COMMANDS)
    return lambda *argv: cli.main(argv)


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_every_command(run: Run, argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argv) == 0
    text = capsys.readouterr().out
    assert "  fine       `starling` lists its commands, runs one" in text
    assert all(name in text for name in COMMANDS)
    assert "starling demo --agents 12" in text
    assert "starling call nanodet --input frame=@photo.jpg" in text


def test_a_command_gets_its_arguments_and_its_status_is_returned(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fine", "--x", "1") == 3
    assert capsys.readouterr().out == "ran --x 1\n"


def test_help_of_a_command_is_its_own(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("help", "fine") == 3
    assert capsys.readouterr().out == "ran --help\n"


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (("fin",), 2, "no command 'fin'; did you mean `starling fine`?"),
        (("quux",), 2, "no command 'quux'; expected one of: fine, unset"),
        (("unset",), 2, "starling x cannot start, 1 problem:\n  --a: found 'b'; expected c"),
        (("known",), 1, "starling known: too many"),
        (("file",), 1, "starling file: cannot use /dev/null/out: Not a directory; give another path"),
        (("unbuilt",), 1, "starling unbuilt cannot start: No module named"),
        (("unwritten",), 1, "A part is not built or not installed; `make setup build`"),
        (("stop",), 130, "interrupted"),
    ],
)
def test_failures_are_explained_on_stderr(
    run: Run, argv: tuple[str, ...], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == status
    output = capsys.readouterr()
    assert says in output.err
    assert output.out == ""


def test_a_bug_keeps_its_traceback(run: Run) -> None:
    with pytest.raises(LookupError, match="a bug"):
        run("bug")


def test_version_is_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("starling ")


def test_a_reader_that_goes_away_is_not_a_traceback() -> None:
    script = (
        "import sys; from services.host import cli; from services.host.commands import Command\n"
        "def run(argv):\n"
        "    for _ in range(100_000): print('line')\n"
        "    return 0\n"
        "cli.find_commands = lambda: {'spam': Command('spam', '__main__:run')}\n"
        "sys.exit(cli.main(['spam']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 141
    assert errors == b""


def test_the_commands_of_the_source_tree_are_found() -> None:
    commands = find_commands()
    assert commands["node"].target == "services.predict.app:main"


def test_a_summary_is_read_without_importing(tmp_path: Path) -> None:
    loaded = set(sys.modules)
    assert Command("x", "services.host.no_such:main").read_summary() == ""
    assert Command("x", "no_such_package:main").read_summary() == ""
    assert Command("x", "this:main").read_summary() == ""
    assert Command("x", "services.host.cli:main").read_summary().startswith("The command line")
    assert set(sys.modules) == loaded


def test_the_overview_imports_no_command_and_no_grpc() -> None:
    script = (
        "import sys; from services.host.cli import main; main([]);"
        "heavy = {'grpc', 'google.protobuf', 'numpy', 'cv2', 'rich', 'engines', 'mesh'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
