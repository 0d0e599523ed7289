"""Clients of others, installed once into the cache, apart from our environment: tritonclient, KServe's, perf_analyzer.

`python tests/support/clients.py` installs them if they are missing, which takes a minute, and prints where they are.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CI = Path(__file__).resolve().parents[2] / ".ci"
_LOCKS = ("clients.txt", "perf_analyzer.txt")
_INSTALL_S = 900.0
_OPTIONS = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile", "--quiet", "--no-input")
_SCRIPTS = Path(__file__).resolve().parents[1] / "clients"


@dataclass(frozen=True, slots=True)
class Clients:
    """Where the clients are, and how each is run in a process of its own."""

    root: Path

    def run(self, script: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """Runs a script of `tests/clients` with none of our packages; returns what it prints."""
        # The interpreter beneath our environment: its own packages come after what PYTHONPATH names.
        interpreter = getattr(sys, "_base_executable", sys.executable)
        command = [interpreter, str(_SCRIPTS / script), *arguments]
        return _run(command, {"PYTHONPATH": str(self.root / _LOCKS[0])}, timeout_s)

    def perf_analyzer(self, *arguments: str, timeout_s: float = 120.0) -> str:
        """Runs perf_analyzer; returns what it prints."""
        program = self.root / _LOCKS[1] / "bin" / "perf_analyzer"
        libraries = self.root / _LOCKS[0] / "nvidia" / "cuda_runtime" / "lib"
        program.chmod(0o755)
        return _run([str(program), *arguments], {"LD_LIBRARY_PATH": str(libraries)}, timeout_s)


def install_clients() -> Clients:
    """Returns the clients; fetches them with pip the first time, about 150 MB.

    Raises:
        CalledProcessError: pip could not fetch them; `stderr` says why.
    """
    cache = Path(os.environ.get("STARLING_CACHE") or Path.home() / ".cache" / "starling").expanduser() / "tools"
    digest = hashlib.sha256(b"".join((_CI / lock).read_bytes() for lock in _LOCKS)).hexdigest()[:12]
    root = cache / f"clients-py{sys.version_info.major}.{sys.version_info.minor}-{digest}"
    if root.is_dir():
        return Clients(root)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".clients-", dir=cache) as work:
        place = Path(work) / "root"
        for lock in _LOCKS:
            pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *_OPTIONS)
            command = [*pip, "--target", str(place / lock), "-r", str(_CI / lock)]
            subprocess.run(command, check=True, timeout=_INSTALL_S, capture_output=True, text=True)
        try:
            place.rename(root)
        except OSError:
            if not root.is_dir():
                raise
    return Clients(root)


def _run(command: list[str], more: dict[str, str], timeout_s: float) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GRPC_"))}
    # A proxy is for the world outside, not for loopback.
    environ = {**kept, **more, "no_proxy": "127.0.0.1,localhost"}
    done = subprocess.run(command, env=environ, timeout=timeout_s, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def main() -> int:
    """Installs the clients if they are missing and prints where they are."""
    try:
        print(install_clients().root)
    except subprocess.CalledProcessError as error:
        print(error.stderr.strip()[-2000:], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
