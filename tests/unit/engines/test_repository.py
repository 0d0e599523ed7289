"""Tests of the model repository and its manifests."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engines import (
    CorruptModel,
    DataType,
    InvalidConfig,
    InvalidInput,
    ModelConfig,
    ModelNotFound,
    Release,
    Repository,
    TensorConfig,
)
from tests.support.node_models import build_plus_one


def release(name: str = "m", version: int = 1, *, data: bytes = b"graph", versions: int = 1) -> Release:
    return Release(
        ModelConfig(
            name,
            "openvino",
            4,
            (TensorConfig("x", DataType.FP32, (3,)),),
            (TensorConfig("y", DataType.FP32, (2,), "labels.txt"),),
            version_count=versions,
        ),
        version,
        {"model.onnx": data},
        labels=("cat", "dog"),
        license="MIT",
        sources=("pypi:thing@1 sha256:00",),
        report={"precision": "fp32"},
    )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def test_published_version_is_found_intact_with_its_origin(repository: Repository) -> None:
    found = repository.publish(release())
    found.verify()
    assert (found.name, found.version, found.manifest.license) == ("m", 1, "MIT")
    assert found.manifest.sources == ("pypi:thing@1 sha256:00",)
    assert found.manifest.report == {"precision": "fp32"}
    assert repository.labels("m") == {"y": ("cat", "dog")}
    assert found == repository.find("m") == repository.find("m", 1)


def test_versions_come_highest_first_and_the_policy_limits_what_is_served(repository: Repository) -> None:
    for version in (1, 10, 2):
        repository.publish(release(version=version, versions=2))
    (repository.root / "m" / "notes").mkdir()
    (repository.root / "m" / "007").mkdir()
    assert repository.versions("m") == [10, 2, 1]
    assert repository.served_versions("m") == [10, 2]
    assert repository.find("m").version == 10


def test_publishing_again_replaces_the_version_and_leaves_nothing_behind(repository: Repository) -> None:
    repository.publish(release())
    repository.publish(release(data=b"better"))
    assert repository.find("m").model_path.read_bytes() == b"better"
    assert [path.name for path in repository.root.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["", ".", "..", "../m", "m/1", ".staging-x", "a\0b"])
def test_names_cannot_leave_the_repository(repository: Repository, name: str) -> None:
    repository.publish(release())
    with pytest.raises(InvalidInput, match="is not a model name"):
        repository.find(name)


def test_unknown_models_and_versions_say_what_there_is(repository: Repository) -> None:
    repository.publish(release())
    with pytest.raises(ModelNotFound, match="there is no model 'other'"):
        repository.find("other")
    with pytest.raises(ModelNotFound, match=r"no version 7 of model 'm'; found \[1\]") as caught:
        repository.find("m", 7)
    assert caught.value.facts == {"model": "m", "version": 7}


def test_missing_repository_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="starling models pull"):
        Repository(tmp_path / "nowhere").scan()


def test_tampered_truncated_missing_and_unlisted_files_are_refused(repository: Repository) -> None:
    def broken(change: str) -> str:
        version = repository.publish(release())
        match change:
            case "tamper":
                version.model_path.write_bytes(b"GRAPH")
            case "truncate":
                version.model_path.write_bytes(b"gra")
            case "remove":
                version.model_path.unlink()
            case "add":
                (version.folder / "weights.bin").write_bytes(b"")
            case "link":
                version.model_path.rename(repository.root / "elsewhere")
                version.model_path.symlink_to(repository.root / "elsewhere")
        with pytest.raises(CorruptModel) as caught:
            repository.find("m").verify()
        return str(caught.value)

    assert "expected sha256" in broken("tamper")
    assert "3 bytes; expected 5 bytes" in broken("truncate")
    assert "is missing" in broken("remove")
    assert "weights.bin: is not in the manifest" in broken("add")
    assert "is not a plain file" in broken("link")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not a manifest"),
        ("[]", "not a manifest"),
        ('{"format": 2}', "format 2; expected 1"),
        ('{"format": 1, "name": "m", "version": 1}', "KeyError"),
        ('{"format": 1, "name": "m", "version": 2, "files": []}', "is of m:2; expected m:1"),
        ('{"format": 1, "name": "n", "version": 1, "files": []}', "is of n:1; expected m:1"),
        (
            '{"format": 1, "name": "m", "version": 1, "files": [{"name": "../x", "sha256": "", "bytes": 0}]}',
            "expected names in the same folder",
        ),
    ],
)
def test_wrong_manifests_are_refused(repository: Repository, content: str, says: str) -> None:
    path = repository.publish(release()).folder / "manifest.json"
    path.write_text(content)
    with pytest.raises(CorruptModel, match=says):
        repository.find("m")


def test_missing_manifest_is_refused_unless_there_is_nothing_to_load(repository: Repository) -> None:
    (repository.publish(release()).folder / "manifest.json").unlink()
    strict = Repository(repository.root, require_manifests=True)
    with pytest.raises(CorruptModel, match="only loaded with its manifest"):
        strict.find("m")
    echo = repository.root / "echo"
    (echo / "1").mkdir(parents=True)
    (echo / "config.pbtxt").write_text(
        'name: "echo" backend: "identity" max_batch_size: 4\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 64 } output { name: "y" data_type: TYPE_FP32 dims: 64 }'
    )
    strict.find("echo").verify()


def test_a_repository_written_for_triton_is_read_as_it_is(repository: Repository) -> None:
    for name, version, file in (("bare", 2, "model.onnx"), ("bare", 1, "model.onnx"), ("named", 1, "net.onnx")):
        folder = repository.root / name / str(version)
        folder.mkdir(parents=True)
        (folder / file).write_bytes(build_plus_one())
    (repository.root / "named" / "config.pbtxt").write_text(
        'platform: "onnxruntime_onnx" max_batch_size: 0 default_model_filename: "net.onnx" version_policy { all { } }'
    )
    (repository.root / "no-model" / "1").mkdir(parents=True)
    assert repository.names() == ["bare", "named"]
    bare, named = repository.find("bare"), repository.find("named")
    for found in (bare, named):
        found.verify()
        assert (found.manifest, found.license) == (None, "")
    assert (bare.version, bare.model_path.name, bare.config.max_batch_size) == (2, "model.onnx", 4)
    assert [str(tensor.data_type) for tensor in (*bare.config.inputs, *bare.config.outputs)] == ["FP32", "FP32"]
    assert (bare.config.inputs[0].name, bare.config.outputs[0].dims) == ("x", (3,))
    assert (named.model_path.name, named.config.batched, named.config.inputs[0].dims) == ("net.onnx", False, (-1, 3))
    assert repository.served_versions("bare") == [2]
    (named.folder / "net.onnx").unlink()
    with pytest.raises(CorruptModel, match="cannot be read"):
        repository.config("named")


def test_the_policy_may_name_versions_or_want_them_all(repository: Repository) -> None:
    for version in (1, 2, 3):
        repository.publish(release(version=version, versions=0))
    assert repository.served_versions("m") == [3, 2, 1]
    path = repository.root / "m" / "config.pbtxt"
    path.write_text(path.read_text().replace("all { }", "specific { versions: [ 1, 3, 9 ] }"))
    assert repository.served_versions("m") == [3, 1]


@pytest.mark.parametrize("inside", ["m", "m/1", "m/config.pbtxt", "m/labels.txt", "m/1/manifest.json"])
def test_links_out_of_the_repository_are_refused(repository: Repository, tmp_path: Path, inside: str) -> None:
    repository.publish(release())
    shutil.move(repository.root / inside, tmp_path / "outside")
    (repository.root / inside).symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptModel, match="outside of the repository"):
        [repository.find("m"), repository.labels("m")]


def test_one_broken_model_does_not_hide_the_others(repository: Repository) -> None:
    for name in ("a", "b", "c"):
        repository.publish(release(name))
    (repository.root / "a" / "config.pbtxt").write_text("name: 3")
    (repository.root / "b" / "1" / "manifest.json").write_text("{")
    found = [(entry.name, entry.version, type(entry.error)) for entry in repository.scan()]
    assert found == [("a", 0, InvalidConfig), ("b", 1, CorruptModel), ("c", 1, type(None))]


def test_manifest_is_stable_json(repository: Repository) -> None:
    path = repository.publish(release()).folder / "manifest.json"
    document = json.loads(path.read_text())
    assert document["format"] == 1
    assert document["files"][0]["bytes"] == 5
    first = path.read_bytes()
    repository.publish(release())
    assert path.read_bytes() == first


FULL_DISK = """
import os, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from engines import DiskFull, Repository
from test_repository import release
repository = Repository(Path(sys.argv[1]) / "models")
repository.publish(release(data=b"old"))
try:
    repository.publish(release(data=os.urandom(4 << 20)))
except DiskFull as error:
    print(error, error.facts["needed_bytes"] > 4 << 20, error.facts["free_bytes"] < 4 << 20)
repository.find("m").verify()
print(repository.find("m").model_path.read_bytes(), [path.name for path in repository.root.iterdir()])
"""


def test_full_disk_keeps_what_was_published(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine does not let us mount a small disk in a namespace of our own")
    tests = Path(__file__).parent
    script = FULL_DISK.format(root=str(tests.parents[2]), tests=str(tests))
    command = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, script], capture_output=True, text=True, check=False
    )
    assert "no space left" in done.stdout, done.stderr
    assert "True True" in done.stdout
    assert "b'old' ['m']" in done.stdout
