"""Servers of others, installed once into the cache from locked packages, apart from what we depend on."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from mesh.assets import get_cache_root
from mesh.errors import MeshError

LOCKS = Path(__file__).resolve().parents[2] / ".ci"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_ROOM_BYTES = 1 << 30
_STALL_S = 120.0
_TOTAL_S = 1800.0
_POLL_S = 0.5
_SAY_EVERY_S = 10.0


class NotAvailable(MeshError):
    """A server to measure against can not be had here; benchmarks go on without it and say so."""

    reason = "NOT_AVAILABLE"

    def __init__(self, why: str) -> None:
        super().__init__(f"not available on this machine: {why}")


async def ensure_packages(
    name: str,
    lock: Path,
    console: Console,
    *,
    megabytes: int,
    tools: Path | None = None,
    finish: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Returns the folder of a server's packages; installs them with pip the first time.

    Args:
        name: of the server, in lower case.
        lock: packages with their hashes.
        console: is told how far it is.
        megabytes: what is fetched, about.
        tools: where it is kept; the cache by default.
        finish: completes what pip installed, before anybody sees it.

    Raises:
        NotAvailable: there is no lock or no room, or pip could not fetch them; says why.
    """
    tools = tools or get_cache_root(os.environ) / "tools"
    place = tools / f"{name}-py{PYTHON}-{_read_digest(lock)[:12]}"
    if place.is_dir():
        return place
    tools.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(tools).free < _ROOM_BYTES:
        raise NotAvailable(f"{tools} has less than {_ROOM_BYTES >> 20} MiB free; make room and try again")
    console.print(f"  fetching the server of {name}, about {megabytes} MB, once", highlight=False)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=tools) as work:
        await _install(Path(work), lock, name, console)
        await asyncio.to_thread(_publish, Path(work) / "site", place, finish)
    return place


def _read_digest(lock: Path) -> str:
    if not lock.is_file():
        raise NotAvailable(f"there is no {lock}; run the benchmark from a checkout of the sources")
    return hashlib.sha256(lock.read_bytes()).hexdigest()


async def _install(work: Path, lock: Path, name: str, console: Console) -> None:
    temporary = work / "tmp"
    temporary.mkdir()
    options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile", "--no-cache-dir")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    command = (
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        *quiet,
        "--target",
        str(work / "site"),
        "-r",
        str(lock),
    )
    await _run_pip(command, work, {**os.environ, "TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"}, name, console)


def _publish(site: Path, place: Path, finish: Callable[[Path], None]) -> None:
    """Fills `place` in one step; whoever else did it meanwhile has put the same files there."""
    finish(site)
    try:
        site.rename(place)
    except OSError:
        if not place.is_dir():
            raise


async def _run_pip(command: Sequence[str], work: Path, environ: dict[str, str], name: str, console: Console) -> None:
    with (work / "pip.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            await _watch(process, work, name, console)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        lines = [line.strip() for line in (work / "pip.log").read_text(errors="replace").splitlines() if line.strip()]
        raise NotAvailable(f"pip ended with {process.returncode}: {' | '.join(lines[-3:]) or 'no output'}")


async def _watch(process: asyncio.subprocess.Process, work: Path, name: str, console: Console) -> None:
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
            console.print(f"  fetching the server of {name}: {size >> 20} MiB on disk", highlight=False)
        if now - grown > _STALL_S or now - started > _TOTAL_S:
            raise NotAvailable(f"pip made no progress for {now - grown:.0f} s; check the network and try again")


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total
