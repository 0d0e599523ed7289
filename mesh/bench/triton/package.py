"""Triton's server from its Python package, installed once into the cache, apart from what we depend on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mesh.assets import get_cache_root
from mesh.errors import MeshError

_LOCK = Path(__file__).resolve().parents[3] / ".ci" / "triton.txt"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_ROOM_BYTES = 1 << 30
_STALL_S = 120.0
_TOTAL_S = 1800.0
_POLL_S = 0.5
_SAY_EVERY_S = 10.0


class TritonMissing(MeshError):
    """Triton's server can not be had here; benchmarks go on without it and say so."""

    reason = "TRITON_MISSING"

    def __init__(self, why: str) -> None:
        super().__init__(f"not available on this machine: {why}")


@dataclass(frozen=True, slots=True)
class TritonPackage:
    """Triton's server on disk.

    Attributes:
        packages: folder with its package, NumPy and OpenVINO.
        libpython: folder with the shared library of the Python that its backend embeds.
    """

    packages: Path
    libpython: Path

    @property
    def program(self) -> Path:
        """Returns the server's program."""
        return self.packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Returns the folder of backends; it holds the one for Python alone."""
        return self.packages / "pytriton" / "tritonserver" / "backends"


async def ensure_triton(console: Console, *, tools: Path | None = None, lock: Path = _LOCK) -> TritonPackage:
    """Returns the server; installs it with pip the first time, about 130 MB.

    Args:
        console: is told how far it is.
        tools: where it is kept; the cache by default.
        lock: packages with their hashes.

    Raises:
        TritonMissing: this machine or its Python cannot run it, or pip could not fetch it; says why.
    """
    libpython = _find_libpython()
    tools = tools or get_cache_root(os.environ) / "tools"
    package = TritonPackage(tools / f"triton-py{_PYTHON}-{_read_digest(lock)[:12]}", libpython)
    if not package.packages.is_dir():
        tools.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(tools).free < _ROOM_BYTES:
            raise TritonMissing(f"{tools} has less than {_ROOM_BYTES >> 20} MiB free; make room and try again")
        with tempfile.TemporaryDirectory(prefix=".triton-", dir=tools) as work:
            await _install(Path(work), lock, package.packages, console)
    return package


def _read_digest(lock: Path) -> str:
    if not lock.is_file():
        raise TritonMissing(f"there is no {lock}; run the benchmark from a checkout of the sources")
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _find_libpython() -> Path:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise TritonMissing(f"its package is for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    # The backend embeds Python: library and standard library must be those of one interpreter.
    library = Path(sysconfig.get_config_var("LIBDIR")) / f"libpython{_PYTHON}.so.1.0"
    if not library.is_file():
        raise TritonMissing(f"its backend embeds Python, and {library} is missing; install Python's shared library")
    return library.parent


async def _install(work: Path, lock: Path, place: Path, console: Console) -> None:
    """Fills `place` in one step; whoever else did it meanwhile has put the same files there."""
    console.print("  fetching Triton's server, about 130 MB, once", highlight=False)
    site, temporary = work / "site", work / "tmp"
    temporary.mkdir()
    options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile", "--no-cache-dir")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    command = (sys.executable, "-m", "pip", "install", *options, *quiet, "--target", str(site), "-r", str(lock))
    await _run_pip(command, work, {**os.environ, "TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"}, console)
    await asyncio.to_thread(_publish, site, place)


def _publish(site: Path, place: Path) -> None:
    server = site / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonMissing(f"its package has no Python backend for Python {_PYTHON}")
    shutil.copy2(stub, server / "backends" / "python" / stub.name)
    try:
        site.rename(place)
    except OSError:
        if not place.is_dir():
            raise


async def _run_pip(command: Sequence[str], work: Path, environ: dict[str, str], console: Console) -> None:
    with (work / "pip.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            await _watch(process, work, console)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        lines = [line.strip() for line in (work / "pip.log").read_text(errors="replace").splitlines() if line.strip()]
        raise TritonMissing(f"pip ended with {process.returncode}: {' | '.join(lines[-3:]) or 'no output'}")


async def _watch(process: asyncio.subprocess.Process, work: Path, console: Console) -> None:
    """Returns when pip has ended; a folder that stops growing means that it never will."""
    clock = asyncio.get_running_loop().time
    started = grown = said = clock()
    size = 0
    while process.returncode is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _POLL_S)
        now, found = clock(), _folder_bytes(work)
        if found != size:
            size, grown = found, now
        if now - said >= _SAY_EVERY_S:
            said = now
            console.print(f"  fetching Triton's server: {size >> 20} MiB on disk", highlight=False)
        if now - grown > _STALL_S or now - started > _TOTAL_S:
            raise TritonMissing(f"pip made no progress for {now - grown:.0f} s; check the network and try again")


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
