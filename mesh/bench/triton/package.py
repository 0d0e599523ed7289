"""Triton's server from its Python package, installed once into the cache, apart from what we depend on."""

from __future__ import annotations

import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mesh.bench.locked_packages import LOCKS, PYTHON, NotAvailable, ensure_packages


class TritonMissing(NotAvailable):
    """Triton's server can not be had here."""

    reason = "TRITON_MISSING"


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


async def ensure_triton(
    console: Console, *, tools: Path | None = None, lock: Path = LOCKS / "triton.txt"
) -> TritonPackage:
    """Returns the server; installs it with pip the first time, about 130 MB.

    Args:
        console: is told how far it is.
        tools: where it is kept; the cache by default.
        lock: packages with their hashes.

    Raises:
        NotAvailable: this machine or its Python cannot run it, or pip could not fetch it; says why.
    """
    libpython = _find_libpython()
    packages = await ensure_packages("triton", lock, console, megabytes=130, tools=tools, finish=_add_stub)
    return TritonPackage(packages, libpython)


def _find_libpython() -> Path:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise TritonMissing(f"its package is for Linux on x86_64, this is {sys.platform} on {platform.machine()}")
    # The backend embeds Python: library and standard library must be those of one interpreter.
    library = Path(sysconfig.get_config_var("LIBDIR")) / f"libpython{PYTHON}.so.1.0"
    if not library.is_file():
        raise TritonMissing(f"its backend embeds Python, and {library} is missing; install Python's shared library")
    return library.parent


def _add_stub(site: Path) -> None:
    server = site / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonMissing(f"its package has no Python backend for Python {PYTHON}")
    shutil.copy2(stub, server / "backends" / "python" / stub.name)
