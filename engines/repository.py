"""The model repository on disk: `<root>/<model>/config.pbtxt` and `<root>/<model>/<version>/model.onnx` or `.xml`.

Reading trusts nothing: names cannot leave the root, neither by `..` nor by symbolic links, and a version's files are
checked against its manifest before they are handed to an engine. A version without a manifest, such as one written
for Triton, has nothing to be checked against; `require_manifests` refuses it. Publishing is atomic: a version is
prepared beside its final place, flushed to disk and renamed into it, so that a reader sees all of it or none.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from engines.config import DataType, ModelConfig, TensorConfig
from engines.config_complete import Graph
from engines.config_render import render_config
from engines.config_text import parse_config, read_config
from engines.errors import (
    CorruptModel,
    DiskFull,
    EngineError,
    InvalidInput,
    ModelNotFound,
)
from engines.manifest import (
    MANIFEST_NAME,
    FileEntry,
    Manifest,
    read_manifest,
    verify_files,
)

CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
MODEL_NAME = "model.onnx"
IR_NAME = "model.xml"
# Folders that begin so are work in progress and never models.
_STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version as found on disk, not yet verified; `manifest` is None when it came without one."""

    config: ModelConfig
    version: int
    folder: Path
    manifest: Manifest | None

    @property
    def name(self) -> str:
        """Returns the model's name."""
        return self.config.name

    @property
    def model_path(self) -> Path:
        """Returns where the graph is; backend `identity` has none."""
        return _graph_path(self.folder, self.config.model_filename)

    @property
    def license(self) -> str:
        """Returns the licence of the weights; empty when nobody says."""
        return self.manifest.license if self.manifest else ""

    def verify(self) -> None:
        """Checks every file against the manifest, if there is one; raises `CorruptModel`. Reads all bytes."""
        if self.manifest:
            verify_files(self.manifest, self.folder)
        if self.config.backend != "identity" and not self.model_path.is_file():
            raise CorruptModel(
                f"{self.model_path}: missing; backend {self.config.backend!r} runs this file; publish the model again",
                path=str(self.model_path),
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing: a version as found, or what is wrong with it.

    Version 0 stands for a model whose configuration cannot be read.
    """

    name: str
    version: int
    found: ModelVersion | None = None
    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """What `publish` writes: a configuration, the files of one version and their origin."""

    config: ModelConfig
    version: int
    files: Mapping[str, bytes]
    labels: tuple[str, ...] = ()
    license: str = ""
    sources: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)


class Repository:
    """A folder of models. Stateless: each call looks at the disk. Publishing needs one writer at a time."""

    def __init__(self, root: Path, *, require_manifests: bool = False) -> None:
        self.root = root
        self._require_manifests = require_manifests

    def __repr__(self) -> str:
        return f"<Repository {self.root}>"

    def names(self) -> list[str]:
        """Returns the names of all models, sorted; a folder with neither configuration nor a graph is not a model.

        Raises:
            ModelNotFound: the root is not a readable folder.
        """
        try:
            found = sorted(self.root.iterdir())
        except OSError as error:
            raise _missing(
                f"the model repository is not a readable folder ({error.strerror});"
                " give another --repository or run `starling models pull`",
                self.root,
            ) from error
        return [one.name for one in found if one.name[0] != "." and _is_model(one)]

    def versions(self, name: str) -> list[int]:
        """Returns the versions of a model, highest first; other folders beside them are ignored.

        Raises:
            ModelNotFound: no such model.
        """
        return _versions(self._model_folder(name))

    def served_versions(self, name: str) -> list[int]:
        """Returns those versions that the model's version policy wants loaded, highest first.

        Raises:
            ModelNotFound, InvalidConfig: as `config`.
        """
        config, versions = self.config(name), self.versions(name)
        if config.version_numbers:
            return [one for one in versions if one in config.version_numbers]
        return versions[: config.version_count or None]

    def config(self, name: str) -> ModelConfig:
        """Reads a model's configuration; what it leaves out, or all of it, is read from the model's file.

        Raises:
            ModelNotFound: no such model.
            InvalidConfig: see `engines.config_text.read_config`.
            CorruptModel: the model's file has to be asked and cannot be read.
        """
        folder = self._model_folder(name)
        path = self._inside(folder / CONFIG_NAME)

        def graph(filename: str) -> Graph:
            highest = next(iter(_versions(folder)), 1)
            return _read_graph(self._inside(_graph_path(folder / str(highest), filename)))

        if path.exists():
            return read_config(path, graph)
        return parse_config("", str(path), folder=name, graph=graph)

    def labels(self, name: str) -> dict[str, tuple[str, ...]]:
        """Returns the class names of each labelled output, in order.

        Raises:
            ModelNotFound, InvalidConfig: as `config`.
            CorruptModel: a file that the configuration names cannot be read.
        """
        return self.labels_of(self.config(name))

    def labels_of(self, config: ModelConfig) -> dict[str, tuple[str, ...]]:
        """Returns the class names of a model whose configuration is read already.

        Raises:
            CorruptModel: a file that it names cannot be read.
        """
        folder = self.root / config.name
        return {
            one.name: self._read_labels(folder / one.label_filename) for one in config.outputs if one.label_filename
        }

    def _read_labels(self, path: Path) -> tuple[str, ...]:
        path = self._inside(path)
        try:
            return tuple(path.read_text().splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise CorruptModel(
                f"{path}: cannot be read ({error}); expected one class name per line",
                path=str(path),
            ) from error

    def find(self, name: str, version: int = 0) -> ModelVersion:
        """Returns one version; 0 means the highest. Reads its configuration and manifest, not its files.

        Raises:
            ModelNotFound: no such model or version.
            InvalidConfig: the configuration is wrong.
            CorruptModel: the manifest is missing, wrong, or of another model.
        """
        versions = self.versions(name)
        if not versions or (version and version not in versions):
            missing = (
                f"there is no version {version} of model {name!r}" if version else f"model {name!r} has no version"
            )
            raise _missing(
                f"{missing}; found {versions or 'none'}; publish it, or ask for one that there is",
                self.root / name,
                model=name,
                version=version,
            )
        return self._find(self.config(name), version or versions[0])

    def _find(self, config: ModelConfig, version: int) -> ModelVersion:
        name = config.name
        folder = self._inside(self.root / name / str(version))
        path = folder / MANIFEST_NAME
        # Backend "identity" loads no file, so there is nothing to protect.
        if (config.backend == "identity" or not self._require_manifests) and not path.exists():
            return ModelVersion(config, version, folder, None)
        manifest = read_manifest(self._inside(path))
        if (manifest.name, manifest.version) != (name, version):
            raise CorruptModel(
                f"{path}: is of {manifest.name}:{manifest.version}; expected {name}:{version}; publish the model again",
                path=str(path),
            )
        return ModelVersion(config, version, folder, manifest)

    def scan(self) -> list[Entry]:
        """Returns every version by name, highest version first, with what is wrong with it, if anything.

        A broken model does not hide the others. Each configuration is read once; files are not verified, only found.
        """
        entries = []
        for name in self.names():
            try:
                versions = self.versions(name)
                config = self.config(name)
            except EngineError as error:
                entries.append(Entry(name, 0, error=error))
                continue
            for version in versions:
                try:
                    entries.append(Entry(name, version, self._find(config, version)))
                except EngineError as error:
                    entries.append(Entry(name, version, error=error))
        return entries

    def publish(self, release: Release) -> ModelVersion:
        """Writes one version and its model's configuration; replaces a version of the same number.

        Raises:
            DiskFull: there is no room; what was published before is untouched.
        """
        name, version = release.config.name, release.version
        assert version >= 1, "versions count from 1"
        manifest = Manifest(
            name,
            version,
            tuple(
                FileEntry(file, hashlib.sha256(data).hexdigest(), len(data))
                for file, data in sorted(release.files.items())
            ),
            release.license,
            release.sources,
            release.report,
        )
        files = {f"{version}/{file}": data for file, data in release.files.items()}
        files[f"{version}/{MANIFEST_NAME}"] = manifest.to_json().encode()
        files[CONFIG_NAME] = render_config(release.config).encode()
        if release.labels:
            files[LABELS_NAME] = "".join(f"{label}\n" for label in release.labels).encode()
        needed = sum(map(len, files.values()))
        with disk_full_named(self.root, needed), self._staging() as staging:
            for file, data in files.items():
                _write_flushed(staging / file, data)
            _flush_folder(staging / str(version))
            target = self.root / name
            target.mkdir(exist_ok=True)
            if (target / str(version)).exists():
                (target / str(version)).rename(staging / "replaced")
            (staging / str(version)).rename(target / str(version))
            for file in (LABELS_NAME, CONFIG_NAME):
                if file in files:
                    (staging / file).replace(target / file)
            _flush_folder(target)
        return self.find(name, version)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _model_folder(self, name: str) -> Path:
        if not name or name[0] == "." or "/" in name or "\0" in name:
            raise InvalidInput(f"{name!r} is not a model name; expected the name of a folder of the repository")
        folder = self._inside(self.root / name)
        if not _is_model(folder):
            raise _missing(f"there is no model {name!r}; pull or publish it first", folder / CONFIG_NAME, model=name)
        return folder

    def _inside(self, path: Path) -> Path:
        """Returns `path` unless its real place is outside of the root."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            error = CorruptModel(
                f"{path}: leads outside of the repository; copy the file instead of linking it", path=str(path)
            )
            error.add_note(f"it leads to {path.resolve()}")
            raise error
        return path


def _missing(message: str, path: Path, **facts: str | float) -> ModelNotFound:
    """Returns an error that tells where was looked in a note: callers of a node need not know its folders."""
    error = ModelNotFound(message, **facts)
    error.add_note(f"looked for {path}")
    return error


def _versions(folder: Path) -> list[int]:
    numbers = [
        int(one.name)
        for one in folder.iterdir()
        if one.name.isascii() and one.name.isdecimal() and one.name[0] != "0" and one.is_dir()
    ]
    return sorted(numbers, reverse=True)


def _is_model(folder: Path) -> bool:
    """Returns whether a folder has a configuration or, without one, a version that describes itself."""
    if (folder / CONFIG_NAME).exists():
        return True
    return folder.is_dir() and any(_graph_path(folder / str(one), "").exists() for one in _versions(folder))


def _graph_path(folder: Path, filename: str) -> Path:
    ir = folder / IR_NAME
    return folder / filename if filename else ir if ir.exists() else folder / MODEL_NAME


def _read_graph(path: Path) -> Graph:
    try:
        found = path.stat()
    except OSError as error:
        raise CorruptModel(
            f"{path}: cannot be read ({error.strerror}); describe `input` and `output` in {CONFIG_NAME}, or publish"
            " the model's file",
            path=str(path),
        ) from error
    return _read_graph_of(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)  # a listing asks every model again, and a file may be large
def _read_graph_of(path: Path, modified_ns: int, size_bytes: int) -> Graph:  # noqa: ARG001  # they say which content
    # Configurations that describe their model work before the native part is built.
    from engines._core import read_graph

    inputs, outputs = (
        tuple(TensorConfig(one.name, DataType(one.data_type), tuple(one.dims)) for one in tensors)
        for tensors in read_graph(str(path))
    )
    return Graph(path.name, inputs, outputs)


@contextmanager
def disk_full_named(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turns "no space left" into `DiskFull`, which says how much is needed and how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(folder, needed_bytes) from error


def disk_full(folder: Path, needed_bytes: int) -> DiskFull:
    """Returns the error for a write below `folder` that needs `needed_bytes`."""
    free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    return DiskFull(
        f"no space left below {folder}: {needed_bytes} bytes are needed, {free} are free;"
        " free some space or set STARLING_CACHE to a folder on another disk",
        needed_bytes=needed_bytes,
        free_bytes=free,
    )


def _write_flushed(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
