"""Reads single files out of archives, into memory, by exact name.

Nothing is ever extracted to disk under a name that an archive chose, so no `..`, absolute path or link inside of it
can reach outside; links, devices and folders are not files and are refused.
"""

import subprocess
import tarfile
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

from engines.assets.errors import DownloadTampered

# The largest file that any asset uses is an eighth of this; it bounds what a hostile archive can make us hold.
MEMBER_BYTES_MAX = 128 << 20


def read_members(archive: Path, names: Collection[str], bytes_max: int = MEMBER_BYTES_MAX) -> dict[str, bytes]:
    """Returns the contents of the named files of a `.whl`, `.zip`, `.tar.gz`, `.tgz` or `.deb`.

    Raises:
        DownloadTampered: not such an archive, or a name is missing, not a plain file, or too large.
    """
    try:
        if archive.suffix in (".whl", ".zip"):
            found = _read_zip(archive, names, bytes_max)
        elif archive.suffix == ".deb":
            found = _read_deb(archive, names, bytes_max)
        else:
            with tarfile.open(archive, "r:*") as tar:
                found = _read_tar(tar, names, archive, bytes_max)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DownloadTampered(
            f"{archive.name}: cannot be read as an archive ({error}); delete it and pull again",
            package=archive.name,
        ) from error
    missing = sorted(set(names) - found.keys())
    if missing:
        raise _refused(archive, f"has no file {missing[0]!r}")
    return found


def _read_zip(archive: Path, names: Collection[str], bytes_max: int) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        found = {}
        for info in file.infolist():
            if info.filename in names:
                _check_size(archive, info.filename, info.file_size, bytes_max)
                found[info.filename] = file.read(info)
        return found


def _read_deb(archive: Path, names: Collection[str], bytes_max: int) -> dict[str, bytes]:
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None, "a pipe was asked for"
        try:
            return _read_stream(process.stdout, names, archive, bytes_max)
        finally:
            process.kill()


def _read_stream(stream: IO[bytes], names: Collection[str], archive: Path, bytes_max: int) -> dict[str, bytes]:
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        return _read_tar(tar, names, archive, bytes_max)


def _read_tar(tar: tarfile.TarFile, names: Collection[str], archive: Path, bytes_max: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for info in tar:
        name = info.name.removeprefix("./")
        if name not in names:
            continue
        if not info.isreg():
            raise _refused(archive, f"{name!r} is a link or a device")
        _check_size(archive, name, info.size, bytes_max)
        file = tar.extractfile(info)
        assert file is not None, "regular files can be read"
        found[name] = file.read()
        if len(found) == len(names):
            break
    return found


def _check_size(archive: Path, name: str, size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise _refused(archive, f"{name!r} has {size} bytes, more than {bytes_max}")


def _refused(archive: Path, found: str) -> DownloadTampered:
    return DownloadTampered(
        f"{archive.name}: {found}; expected the plain file that the catalogue names; nothing was kept",
        package=archive.name,
    )
