"""Tests of the command `starling models`, as far as it needs no registry."""

from pathlib import Path

import pytest

from engines import Release, Repository
from engines.assets.app import main
from engines.assets.catalogue import CATALOGUE
from engines.assets.raptor import describe


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    agreement = {"share": 0.959, "what": "boxes of INT8 against FP32"}
    report = {"precision": "int8", "agreement": agreement}
    repository.publish(Release(describe("policy"), 3, {"model.onnx": b"x" * 2_000_000}, license="MIT", report=report))
    return repository


def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_list_shows_what_matters(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide(monkeypatch)
    assert main(["list", "--repository", str(repository.root)]) == 0
    shown = capsys.readouterr().out
    for part in ("policy", "3", "2.00 MB", "MIT", "int8", "95.9% of boxes"):
        assert part in shown


def test_list_shows_whole_names_on_a_narrow_terminal(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    agreement = {"share": 1.0, "what": "best classes of INT8 against FP32"}
    report = {"precision": "int8", "agreement": agreement}
    repository.publish(
        Release(describe("efficientnet-lite0"), 1, {"model.onnx": b"x"}, license="Apache-2.0", report=report)
    )
    assert main(["list", "--repository", str(repository.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(" efficientnet-lite0  1         0.00 MB  Apache-2.0  int8") for line in lines)


def test_list_shows_how_alike_embeddings_are(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide(monkeypatch)
    report = {"precision": "int8", "agreement": {"cosine": 0.9711}}
    repository.publish(Release(describe("embedder"), 1, {"model.onnx": b"x"}, license="MIT", report=report))
    assert main(["list", "--repository", str(repository.root)]) == 0
    assert "cosine 0.971" in capsys.readouterr().out


def test_list_shows_broken_models_with_the_reason(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide(monkeypatch)
    (repository.root / "policy" / "config.pbtxt").write_text("nome: 3")
    assert main(["list", "--repository", str(repository.root)]) == 0
    assert "unknown field" in capsys.readouterr().out


def test_verify_succeeds_only_when_all_is_intact(repository: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--repository", str(repository.root)]) == 0
    assert "intact policy:3" in capsys.readouterr().out
    repository.find("policy").model_path.write_bytes(b"y" * 2_000_000)
    assert main(["verify", "--repository", str(repository.root)]) == 1
    assert "broken policy:3" in capsys.readouterr().out


def test_empty_cache_lists_what_can_be_pulled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--cache", str(tmp_path / "none")]) == 0
    assert "not pulled: nanodet, nanodet-small" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pull", "yolo"], "there is no asset 'yolo'; expected one of nanodet"),
        (["pull", "minilm"], "'minilm' cannot be pulled yet; these can: nanodet"),
        (["pull"], "give names of assets or --all"),
        (["pull", "--all", "raptor"], "give names of assets or --all, not both"),
        (["list", "--repository", "/nowhere"], "the model repository is not a readable folder"),
    ],
)
def test_wrong_usage_says_what_to_do(
    tmp_path: Path,
    arguments: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide(monkeypatch)
    assert main([*arguments, "--cache", str(tmp_path)]) == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_help_lists_one_asset_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["pull", "--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line.split()[0] in CATALOGUE] == [*CATALOGUE]
    assert "not yet: ga3c-cadrl, minilm" in lines
