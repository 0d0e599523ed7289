"""Generates `protos/gen` from the protos: `python protos/generate.py [--check]`.

The tree is committed, so that neither users nor tests need a compiler, and never edited. `--check`
generates into a temporary folder and fails when the committed tree differs.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent
_TREE = _ROOT / "gen" / "starling"


def main(argv: Sequence[str]) -> int:
    """Generates the tree, or compares it; returns 1 when it is out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only, change nothing")
    check = parser.parse_args(argv).check
    with tempfile.TemporaryDirectory(prefix="starling-gen-") as folder:
        fresh = Path(folder) / "starling"
        build_tree(Path(folder))
        if check:
            stale = list(find_differences(fresh, _TREE))
            for line in stale:
                print(f"out of date: {line}; run `make gen`", file=sys.stderr)
            return 1 if stale else 0
        shutil.rmtree(_TREE, ignore_errors=True)
        shutil.copytree(fresh, _TREE)
    return 0


def build_tree(out: Path) -> None:
    """Writes the stubs, their types and the packages' `__init__.py` below `out`.

    Raises:
        RuntimeError: the compiler refused a proto; its words are on stderr.
    """
    protos = sorted(str(path.relative_to(_ROOT)) for path in _ROOT.glob("starling/**/*.proto"))
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python")]
    outputs += [f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")]
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_ROOT}"]
    done = subprocess.run([*compiler, *plugins, *outputs, *protos], check=False)
    if done.returncode != 0:
        raise RuntimeError(f"protoc ended with status {done.returncode}; see its words above")
    _drop_empty_services(out, protos)
    for folder in {path.parent for path in out.rglob("*_pb2.py")}:
        for package in (folder, *folder.parents):
            if package == out:
                break
            (package / "__init__.py").touch()
    (out / "starling" / "py.typed").touch()


def _drop_empty_services(out: Path, protos: Sequence[str]) -> None:
    """Removes the service stubs of protos that have no service."""
    for proto in protos:
        text = (_ROOT / proto).read_text("utf-8")
        if not any(line.startswith("service ") for line in text.splitlines()):
            for ending in ("_pb2_grpc.py", "_pb2_grpc.pyi"):
                (out / proto.replace(".proto", ending)).unlink(missing_ok=True)


def find_differences(fresh: Path, committed: Path) -> Iterator[str]:
    """Yields each file that is missing, left over or different, as a path below the tree."""
    want = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
    have = {
        path.relative_to(committed)
        for path in committed.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for path in sorted(want | have):
        both = path in want and path in have
        if not both or not filecmp.cmp(fresh / path, committed / path, shallow=False):
            yield str(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
