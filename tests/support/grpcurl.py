"""grpcurl, built once from its Go module: what operators call a mesh with.

`python tests/support/grpcurl.py` builds it if it is missing, which takes a minute or two, and prints where it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "v1.9.4"
_MODULE = "github.com/fullstorydev/grpcurl/cmd/grpcurl"
_BUILD_S = 600.0


class GrpcurlMissing(Exception):
    """There is no grpcurl; says why and what to do."""


def build_grpcurl() -> Path:
    """Builds the program unless it is there; Go's checksum database holds the module to its version.

    Raises:
        GrpcurlMissing: there is no Go, or the module cannot be fetched or built.
    """
    program = _get_place()
    if program.is_file():
        return program
    go = shutil.which("go")
    if go is None:
        raise GrpcurlMissing("Go is not installed; grpcurl is built from its Go module")
    environ = {**os.environ, "GOBIN": str(program.parent), "GOFLAGS": "-mod=mod"}
    command = [go, "install", f"{_MODULE}@{VERSION}"]
    try:
        subprocess.run(command, env=environ, check=True, timeout=_BUILD_S, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise GrpcurlMissing(f"grpcurl {VERSION} cannot be built: {error.stderr.strip()[-400:]}") from error
    except subprocess.TimeoutExpired as error:
        raise GrpcurlMissing(f"grpcurl {VERSION} was not built within {_BUILD_S:g} s") from error
    return program


def _get_place() -> Path:
    cache = Path(os.environ.get("STARLING_CACHE") or Path.home() / ".cache" / "starling").expanduser()
    return cache / "tools" / f"grpcurl-{VERSION}" / "grpcurl"


def main() -> int:
    """Builds grpcurl if it is missing and prints where it is."""
    try:
        print(build_grpcurl())
    except GrpcurlMissing as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
