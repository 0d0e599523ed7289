"""What a published model version consists of: `manifest.json` beside `model.onnx`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engines.errors import CorruptModel

FORMAT = 1
MANIFEST_NAME = "manifest.json"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version: its plain name, content digest and size."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Contents, origin and quality of one version.

    Attributes:
        name: the model's name.
        version: at least 1.
        files: every file of the version's folder except the manifest and its signature.
        license: SPDX expression of the weights' licence; empty when unknown.
        sources: packages that the version was made from, each as `kind:name@version sha256:digest`.
        report: measurements made at publish time, such as the agreement of INT8 with FP32.
    """

    name: str
    version: int
    files: tuple[FileEntry, ...]
    license: str = ""
    sources: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Returns the contents of `manifest.json`: stable order, one trailing newline."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Reads `manifest.json`.

    Raises:
        CorruptModel: missing, not JSON, of another format, or with file names that leave the folder.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise CorruptModel(
                f"{path}: format {document['format']!r}; expected {FORMAT}; publish the model again",
                path=str(path),
            )
        manifest = Manifest(
            name=str(document["name"]),
            version=int(document["version"]),
            files=tuple(_entry(one) for one in document["files"]),
            license=str(document.get("license", "")),
            sources=tuple(str(one) for one in document.get("sources", ())),
            report=dict(document.get("report", {})),
        )
    except FileNotFoundError as error:
        raise CorruptModel(
            f"{path}: missing; a version is only loaded with its manifest; publish the model again",
            path=str(path),
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptModel(
            f"{path}: not a manifest ({type(error).__name__}: {error}); publish the model again",
            path=str(path),
        ) from error
    for one in manifest.files:
        if one.name in ("", ".", "..") or "/" in one.name or "\0" in one.name:
            raise CorruptModel(
                f"{path}: names the file {one.name!r}; expected names in the same folder; do not load it",
                path=str(path),
            )
    return manifest


def verify_files(manifest: Manifest, folder: Path) -> None:
    """Checks that `folder` holds exactly the manifest's files with exactly their contents.

    Raises:
        CorruptModel: a file is missing, unlisted, not a plain file, or differs in size or digest.
    """
    listed = {one.name for one in manifest.files} | {MANIFEST_NAME, "manifest.sig"}
    for path in sorted(folder.iterdir()):
        if path.name not in listed:
            raise _corrupt(path, "is not in the manifest", "only listed files", "remove it")
    for one in manifest.files:
        path = folder / one.name
        if path.is_symlink() or not path.is_file():
            found = "is missing" if not path.exists() else "is not a plain file"
            raise _corrupt(path, found, f"a file of {one.bytes} bytes", "publish the model again")
        size = path.stat().st_size
        if size != one.bytes:
            raise _corrupt(path, f"{size} bytes", f"{one.bytes} bytes", "publish the model again")
        digest = file_sha256(path)
        if digest != one.sha256:
            raise _corrupt(
                path,
                f"sha256 {digest}",
                f"sha256 {one.sha256}",
                "do not load it; publish it again",
            )


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's contents in hexadecimal, reading it in bounded pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _entry(document: Any) -> FileEntry:
    return FileEntry(str(document["name"]), str(document["sha256"]), int(document["bytes"]))


def _corrupt(path: Path, found: str, expected: str, do: str) -> CorruptModel:
    return CorruptModel(f"{path}: {found}; expected {expected}; {do}", path=str(path))
