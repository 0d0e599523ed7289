"""Checks that the protos do not break those on main: `python protos/breaking.py [--against REF]`.

Compares the working tree with the last commit of main and with the commit before the current one,
so a change is caught before and after it is committed. Without any earlier protos it says so.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[1]
_BASES = ("main", "origin/main", "HEAD~1")


def main(argv: Sequence[str]) -> int:
    """Compares with every base that has protos; returns 1 when one of them would break."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--against", metavar="REF", help="compare with this commit only")
    against = parser.parse_args(argv).against
    commits = find_bases(_REPOSITORY, (against,) if against else _BASES)
    if against and not commits:
        parser.error(f"{against!r} is no commit with protos")
    broken = [line for commit in commits for line in find_breaks(_REPOSITORY, commit)]
    for line in broken:
        print(line, file=sys.stderr)
    if not commits:
        print("no earlier protos to compare with")
    return 1 if broken else 0


def find_bases(repository: Path, references: Sequence[str]) -> tuple[str, ...]:
    """Returns the commits that the references name and that hold protos, each once."""
    commits = []
    for reference in references:
        commit = _git(repository, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")
        name = commit.decode().strip()
        if name and name not in commits:
            files = _git(repository, "ls-tree", "-r", "--name-only", name, "--", "protos")
            if b".proto\n" in files:
                commits.append(name)
    return tuple(commits)


def find_breaks(repository: Path, commit: str) -> list[str]:
    """Returns what the working tree's protos break for those who use the protos of a commit.

    Raises:
        RuntimeError: buf could not compare, such as when a proto does not compile.
    """
    with tempfile.TemporaryDirectory(prefix="starling-protos-") as folder:
        archive = _git(repository, "archive", commit, "--", "protos")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        # The rules in force are those of the working tree, also for the earlier protos.
        rules = repository / "buf.yaml"
        done = subprocess.run(
            [
                str(Path(sysconfig.get_path("scripts")) / "buf"),
                *("breaking", str(repository), "--against", folder),
                *("--config", str(rules), "--against-config", str(rules)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 100):  # 100: buf found something
        raise RuntimeError(f"buf could not compare with {commit[:12]}: {done.stderr.strip()}")
    return [f"{line} (since {commit[:12]})" for line in done.stdout.splitlines()]


def _git(repository: Path, *arguments: str) -> bytes:
    """Returns the output of git; nothing when it fails, such as outside a repository."""
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
