"""The model repository on disk: `<root>/<model>/config.pbtxt` and `<root>/<model>/<version>/model.onnx`.

Reading trusts nothing: names cannot leave the root, neither by `..` nor by symbolic links, and a version's files are
checked against its manifest before they are handed to an engine. Publishing is atomic: a version is prepared beside
its final place, flushed to disk and renamed into it, so that a reader sees all of it or none.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.config import ModelConfig
from engines.config_render import render_config
from engines.config_text import read_config
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
# Folders that begin so are work in progress and never models.
_STAGING = ".staging-"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version as found on disk, not yet verified."""

    config: ModelConfig
    version: int
    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Returns the model's name."""
        return self.config.name

    @property
    def model_path(self) -> Path:
        """Returns where the graph is; backend `identity` has none."""
        return self.folder / MODEL_NAME

    def verify(self) -> None:
        """Checks every file against the manifest; raises `CorruptModel`. Reads all bytes."""
        verify_files(self.manifest, self.folder)
        if self.config.backend != "identity" and not self.model_path.is_file():
            raise CorruptModel(
                f"{self.model_path}: missing; backend {self.config.backend!r} runs this file; publish the model again",
                path=str(self.model_path),
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing: a version, or a model whose configuration cannot be read (version 0)."""

    name: str
    version: int
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

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"<Repository {self.root}>"

    def names(self) -> list[str]:
        """Returns the names of all models, sorted; a folder without configuration is not a model.

        Raises:
            ModelNotFound: the root is not a readable folder.
        """
        try:
            found = sorted(self.root.iterdir())
        except OSError as error:
            raise ModelNotFound(
                f"{self.root}: not a readable folder ({error.strerror}); expected a model repository;"
                " give another --repository or run `starling models pull`",
                path=str(self.root),
            ) from error
        return [one.name for one in found if one.name[0] != "." and (one / CONFIG_NAME).exists()]

    def versions(self, name: str) -> list[int]:
        """Returns the versions of a model, highest first; other folders beside them are ignored.

        Raises:
            ModelNotFound: no such model.
        """
        numbers = [
            int(one.name)
            for one in self._model_folder(name).iterdir()
            if one.name.isascii() and one.name.isdecimal() and one.name[0] != "0" and one.is_dir()
        ]
        return sorted(numbers, reverse=True)

    def served_versions(self, name: str) -> list[int]:
        """Returns those versions that the model's version policy wants loaded, highest first.

        Raises:
            ModelNotFound, InvalidConfig: as `config`.
        """
        return self.versions(name)[: self.config(name).version_count]

    def config(self, name: str) -> ModelConfig:
        """Reads a model's configuration.

        Raises:
            ModelNotFound: no such model.
            InvalidConfig: see `engines.config_text.read_config`.
        """
        return read_config(self._inside(self._model_folder(name) / CONFIG_NAME))

    def labels(self, name: str) -> tuple[str, ...]:
        """Returns the class names of the model's labelled output, in order; empty when it has none.

        Raises:
            ModelNotFound, InvalidConfig: as `config`.
            CorruptModel: the file that the configuration names cannot be read.
        """
        config = self.config(name)
        file = next((one.label_filename for one in config.outputs if one.label_filename), "")
        if not file:
            return ()
        path = self._inside(self._model_folder(name) / file)
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
            wanted = f"version {version} of " if version else "any version of "
            raise ModelNotFound(
                f"there is no {wanted}model {name!r}; found {versions or 'none'} in {self.root / name}",
                model=name,
                version=version,
            )
        config = self.config(name)
        folder = self._inside(self.root / name / str(version or versions[0]))
        path = folder / MANIFEST_NAME
        if config.backend == "identity" and not path.exists():
            # There is nothing to protect: this backend loads no file.
            return ModelVersion(config, int(folder.name), folder, Manifest(name, int(folder.name), ()))
        manifest = read_manifest(self._inside(path))
        if (manifest.name, manifest.version) != (name, int(folder.name)):
            raise CorruptModel(
                f"{path}: is of {manifest.name}:{manifest.version}; expected {name}:{folder.name};"
                " publish the model again",
                path=str(path),
            )
        return ModelVersion(config, int(folder.name), folder, manifest)

    def scan(self) -> list[Entry]:
        """Returns every version by name, highest version first, with what is wrong with it, if anything.

        A broken model does not hide the others. Files are not verified, only found.
        """
        entries = []
        for name in self.names():
            try:
                versions = self.versions(name)
                self.config(name)
            except EngineError as error:
                entries.append(Entry(name, 0, error))
                continue
            for version in versions:
                try:
                    self.find(name, version)
                    entries.append(Entry(name, version))
                except EngineError as error:
                    entries.append(Entry(name, version, error))
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
            raise InvalidInput(f"{name!r} is not a model name; expected one folder of {self.root}")
        folder = self._inside(self.root / name)
        if not (folder / CONFIG_NAME).exists():
            raise ModelNotFound(
                f"there is no model {name!r} in {self.root}; expected {folder / CONFIG_NAME}; pull or publish it first",
                model=name,
            )
        return folder

    def _inside(self, path: Path) -> Path:
        """Returns `path` unless its real place is outside of the root."""
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise CorruptModel(
                f"{path}: leads to {path.resolve()}, outside of the repository; copy the file instead of linking it",
                path=str(path),
            )
        return path


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
