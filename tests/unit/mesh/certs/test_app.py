"""`starling certs` on the command line: what it prints, refuses and keeps to itself."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mesh.certs import AuthorityExists, NameRefused
from mesh.certs.app import main


@pytest.fixture
def root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["init", "--dir", str(tmp_path), "--node", "edge-1", "--agent", "drone-7"]) == 0
    shown = capsys.readouterr().out
    for holder in ("ca", "gateway/gateway", "control/control", "node/edge-1", "agent/drone-7", "admin/admin"):
        assert holder in shown
    assert "PRIVATE" not in shown
    return tmp_path


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert "  starling certs token --tenant acme --scope infer" in capsys.readouterr().out.splitlines()


def test_init_does_not_overwrite(root: Path) -> None:
    with pytest.raises(AuthorityExists):
        main(["init", "--dir", str(root)])


def test_a_token_goes_to_a_private_file_and_not_to_the_screen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--dir", str(root), "--tenant", "acme", "--scope", "infer", "--scope", "admin"]) == 0
    path = root / "tokens" / "acme.jwt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in capsys.readouterr().out


def test_a_token_is_printed_when_asked_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--dir", str(root), "--tenant", "acme", "--out", "-"]) == 0
    assert capsys.readouterr().out.count(".") == 2


def test_a_tenant_cannot_choose_the_folder_of_its_token(root: Path) -> None:
    with pytest.raises(NameRefused):
        main(["token", "--dir", str(root), "--tenant", "../../x"])


def test_rotate_renews_one_or_all(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in root.glob("*/*/tls.crt")}
    assert main(["rotate", "--dir", str(root), "node/edge-1"]) == 0
    changed = {path for path in before if path.read_bytes() != before[path]}
    assert changed == {root / "node" / "edge-1" / "tls.crt"}
    assert main(["rotate", "--dir", str(root)]) == 0
    assert all(path.read_bytes() != before[path] for path in before)
    assert "renewed" in capsys.readouterr().out


@pytest.mark.parametrize("days", ["0", "-1", "nan", "inf", "soon"])
def test_a_lifetime_is_a_number_above_zero(root: Path, days: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["rotate", "--dir", str(root), "--days", days])
    assert left.value.code == 2
