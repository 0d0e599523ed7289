"""A package source for tests: archives from memory, failures on demand."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from engines.assets.errors import DownloadFailed
from engines.assets.packages import Package, Registry
from engines.assets.progress import Report
from engines.assets.registries import Fetched

_SUFFIX = {Registry.PYPI: ".whl", Registry.NPM: ".tgz"}


class FakePackageSource:
    """Serves the given archives by package name and counts how often.

    Attributes:
        fetches: names of the packages fetched so far, in order.
        error: raised by the next fetch, after half of the archive was written, if set.
        exact: what the fetched archives say about their version.
    """

    def __init__(self, archives: Mapping[str, bytes]) -> None:
        self._archives = archives
        self.fetches: list[str] = []
        self.error: Exception | None = None
        self.exact = True

    def fetch(self, package: Package, folder: Path, report: Report) -> Fetched:
        """See `engines.assets.registries.PackageSource.fetch`."""
        self.fetches.append(package.name)
        if package.name not in self._archives:
            raise DownloadFailed(f"{package}: not in this fake; add it", package=str(package))
        data = self._archives[package.name]
        suffix = ".tgz" if package.source else _SUFFIX.get(package.registry, ".tgz")
        path = folder / f"package{suffix}"
        path.write_bytes(data[: len(data) // 2])
        report(len(data) // 2)
        if self.error is not None:
            raise self.error
        path.write_bytes(data)
        report(len(data))
        return Fetched(path, self.exact)


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """Returns a gzipped tar archive of `files`, the same bytes every time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def make_zip(files: Mapping[str, bytes]) -> bytes:
    """Returns a zip archive of `files`."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return raw.getvalue()
