"""The protos: linted, not broken, and the generated tree is that of the protos."""

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROTOS = REPOSITORY / "protos"
BUF = Path(sysconfig.get_path("scripts")) / "buf"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"protos_{name}", PROTOS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A repository of its own with today's protos as its only commit."""
    shutil.copytree(PROTOS / "starling", tmp_path / "protos" / "starling")
    shutil.copy(REPOSITORY / "buf.yaml", tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "protos")
    return tmp_path


def test_every_proto_follows_the_rules_and_every_element_has_a_comment() -> None:
    done = subprocess.run([BUF, "lint"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_generated_tree_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, PROTOS / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_changed_generated_tree_is_noticed(tmp_path: Path) -> None:
    generate = load_script("generate")
    fresh, committed = tmp_path / "fresh", tmp_path / "committed"
    for folder in (fresh, committed):
        folder.mkdir()
        (folder / "same.py").write_text("same")
        (folder / "edited.py").write_text(folder.name)
    (fresh / "new.py").touch()
    (committed / "left_over.py").touch()
    (committed / "__pycache__").mkdir()
    (committed / "__pycache__" / "same.pyc").touch()
    assert list(generate.find_differences(fresh, committed)) == [
        "edited.py",
        "left_over.py",
        "new.py",
    ]


def test_the_wheel_asks_for_the_runtimes_that_the_generated_tree_needs() -> None:
    stubs = (PROTOS / "gen/starling/predict/v1/predict_service_pb2_grpc.py").read_text("utf-8")
    messages = (PROTOS / "gen/starling/predict/v1/predict_service_pb2.py").read_text("utf-8")
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '(.+)'", stubs)
    protobuf = re.search(r"# Protobuf Python Version: (.+)", messages)
    assert grpcio is not None
    assert protobuf is not None
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert f"grpcio>={grpcio[1]}" in wanted
    assert f"protobuf>={protobuf[1]}" in wanted


def test_nothing_breaks_the_protos_on_main() -> None:
    breaking = load_script("breaking")
    bases = breaking.find_bases(REPOSITORY, ("main", "origin/main", "HEAD~1"))
    if not bases:
        pytest.skip("no earlier commit with protos: not a clone, or the first commit")
    assert [line for base in bases for line in breaking.find_breaks(REPOSITORY, base)] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string model_name = 1;", "string name_of_model = 1;"),
        ("string model_name = 1;", "int64 model_name = 1;"),
        ("string model_name = 1;", ""),
        ('syntax = "proto3";', "this does not compile"),
    ],
)
def test_a_renamed_retyped_or_lost_field_is_a_break(copy: Path, old: str, new: str) -> None:
    breaking = load_script("breaking")
    (base,) = breaking.find_bases(copy, ("main", "origin/main", "HEAD~1"))
    assert breaking.find_breaks(copy, base) == []
    proto = copy / "protos/starling/predict/v1/predict_service.proto"
    proto.write_text(proto.read_text("utf-8").replace(old, new, 1), "utf-8")
    broken = breaking.find_breaks(copy, base)
    assert broken
    assert all("predict_service.proto" in line and base[:12] in line for line in broken)


def test_outside_a_repository_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    assert load_script("breaking").find_bases(tmp_path, ("main", "HEAD~1")) == ()
