"""What the README and `--help` show can be typed as it is shown."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import services.client
from services.client import Client
from services.host import cli
from services.host.commands import find_commands
from tests.support.fake_up import read_until, running

_ROOT = Path(__file__).parents[2]
_README = (_ROOT / "README.md").read_text("utf-8")
_SHOWN = [line.replace("\\\n", "") for line in re.findall(r"^\$ (starling (?:.*\\\n)*.*)$", _README, re.MULTILINE)]
_BLOCKS = re.findall(r"^```python\n(.*?)^```", _README, re.MULTILINE | re.DOTALL)


def find_block(word: str) -> str:
    """Returns the only Python block of the README with a word."""
    (block,) = (block for block in _BLOCKS if word in block)
    return block


def find_line(start: str) -> list[str]:
    """Returns the words after `starling` of the only line that begins so."""
    (line,) = (line for line in _SHOWN if line.startswith(f"starling {start}"))
    return shlex.split(line, comments=True)[1:]


def at(target: str) -> tuple[str, ...]:
    """Returns flags for a mesh that is not where the README has it, on a machine that may be busy."""
    return "--target", target, "--deadline-ms", "30000"


def give_time(block: str) -> str:
    """Returns a block with time enough on a busy machine."""
    patient, count = re.subn(r"deadline_s=[\d.]+", "deadline_s=30", block)
    assert count
    return patient


@cache
def read_help(*words: str) -> str:
    """Returns what `starling WORDS --help` prints."""
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as caught:
        find_commands()[words[0]].load()([*words[1:], "--help"])
    assert caught.value.code == 0
    return out.getvalue()


def check_words(line: str) -> None:
    """Fails unless the command is there and has every flag of a line."""
    words = shlex.split(line.partition("   ")[0])[1:]
    words = words[: words.index("--")] if "--" in words else words
    text = read_help(words[0])
    if "COMMAND ..." in text:
        text = read_help(*words[:2])
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", text), f"`{line}` has {flag}, which `starling {words[0]} --help` does not"


@pytest.mark.parametrize("command", sorted(find_commands()))
def test_help_has_examples_whose_flags_there_are(command: str) -> None:
    _, _, examples = re.sub(r"\x1b\[[0-9;]*m", "", read_help(command)).partition("\nexamples:\n")
    lines = re.findall(r"^  (starling (?:.*\\\n)*.*)$", examples, re.MULTILINE)
    assert lines, f"`starling {command} --help` has no example"
    for line in lines:
        check_words(line.replace("\\\n", ""))


def test_documents_show_commands_and_flags_that_there_are() -> None:
    assert len(_SHOWN) >= 6
    folders = (_ROOT / name for name in ("engines", "mesh", "services", "tests"))
    documents = [*_ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    texts = (" ".join(path.read_text("utf-8").split()) for path in documents)
    inline = [line for text in texts for line in re.findall(r"`(starling [a-z]+ [^`]*)`", text)]
    for line in [*_SHOWN, *inline]:
        check_words(line.partition("#")[0])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in, as the demo leaves it."""
    (tmp_path / "out" / "demo").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "out" / "demo" / "photo.jpg"), np.zeros((120, 160, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lines_of_the_readme_get_an_answer(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(here) as mesh:
        panel = read_until(mesh, "starling mesh status")
        target = panel.split("gateway", 1)[1].split()[0]
        assert f"starling call nanodet --target {target} --input frame=@out/demo/photo.jpg --out result.png\n" in panel
        assert cli.main([*find_line("call nanodet --input frame=@out/demo/photo.jpg --out"), *at(target)]) == 0
        assert (here / "result.png").is_file()
        assert "person" in capsys.readouterr().out

        frame = np.zeros((1, 120, 160, 3), np.uint8)
        words: dict[str, Any] = {"frame": frame, "n": 1, **vars(services.client)}
        block = find_block("from services.client import Client").replace("127.0.0.1:50051", target)
        exec(give_time(block), words)
        assert words["boxes"].shape == (1, 4)
        with Client(target) as words["client"]:
            exec(give_time(find_block("allow=")), words)
        assert (words["answer"].degraded_to, words["answer"].from_cache) == ("", False)


def test_the_lines_of_the_readme_get_into_a_secure_mesh(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(here, *find_line("up --secure")[1:]) as mesh:
        panel = read_until(mesh, "starling certs rotate")
        target = panel.split("gateway", 1)[1].split()[0]
        assert cli.main(find_line("certs token")) == 0
        assert "wrote out/certs/tokens/acme.jwt, good until " in capsys.readouterr().out
        assert cli.main([*find_line("call nanodet --input frame=@out/demo/photo.jpg --ca"), *at(target)]) == 0
        assert "person" in capsys.readouterr().out
        block = find_block("tls = Tls(").replace("gateway.example.com:50051", target)
        block = re.sub(r'"(ca.crt|tls.crt|tls.key)"', r'"out/certs/agent/agent/\1"', block)
        block = block.replace("client.models()", "client.models(deadline_s=30)")
        exec(block.replace('"acme.jwt"', '"out/certs/tokens/acme.jwt"'), dict(vars(services.client)))
        assert cli.main(["call", "nanodet", "--input", "x=[1]", "--target", target]) == 1
        assert "one with TLS wants --ca, --cert and --key" in capsys.readouterr().err
        assert cli.main(find_line("certs rotate")) == 0
        renewed = "admin/admin, agent/agent, control/control, gateway/gateway, node/cloud-1, node/edge-1, node/edge-2"
        assert capsys.readouterr().out == f"renewed {renewed}\n"
        assert f"renewed {renewed}\n" in _README


def test_every_python_block_of_the_readme_is_python() -> None:
    for number, block in enumerate(_BLOCKS):
        compile(block, f"README.md, block {number}", "exec")
