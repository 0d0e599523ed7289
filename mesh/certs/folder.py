"""Replacing several files at once: readers see all of the old ones or all of the new ones.

The layout is that of a Kubernetes secret volume, so what reads one reads the other:

    gateway/
      ..2026-11-22T10-00-00.ab12cd/tls.crt, tls.key, ca.crt    the files
      ..data -> ..2026-11-22T10-00-00.ab12cd                   swapped by one rename
      tls.crt -> ..data/tls.crt                                what programs open

Whoever watches the folder (Envoy: `watched_directory`) sees one rename in it per change.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

_DATA = "..data"
_NEXT = "..data_next"


def publish(folder: Path, files: Mapping[str, bytes], now: datetime) -> None:
    """Writes a folder's files, replacing all that were there, in one step for readers.

    Args:
        folder: made if missing, readable by its owner only.
        files: contents by name; names without `/`.
        now: part of the name of the folder behind it, for people.

    Raises:
        OSError: the disk is full or a permission is missing; readers still have the old files.
    """
    make_private(folder)
    version = folder / f"..{now:%Y-%m-%dT%H-%M-%S}.{secrets.token_hex(3)}"
    version.mkdir(mode=0o700)
    try:
        for name, content in files.items():
            write_private(version / name, content)
        _sync(version)
        following = folder / _NEXT
        following.unlink(missing_ok=True)
        following.symlink_to(version.name)
        following.replace(folder / _DATA)
    except BaseException:
        shutil.rmtree(version, ignore_errors=True)
        raise
    for name in files:
        link = folder / name
        if not link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(Path(_DATA, name))
    _sync(folder)
    _remove_others(folder, version.name, files)


def make_private(folder: Path) -> None:
    """Makes a folder, and those that lead to it, which only their owner can enter."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Writes a new file that only its owner can read, whatever the umask; it is on disk on return.

    Raises:
        FileExistsError: there is one already.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_private(path: Path, content: bytes) -> None:
    """Writes a single file in one step for readers; only its owner can read it."""
    following = path.with_name(f".{path.name}.{secrets.token_hex(3)}")
    try:
        write_private(following, content)
        following.replace(path)
    finally:
        following.unlink(missing_ok=True)


def _remove_others(folder: Path, version: str, files: Mapping[str, bytes]) -> None:
    for entry in folder.iterdir():
        if entry.is_symlink():
            if entry.name != _DATA and entry.name not in files:
                entry.unlink()
        elif entry.name.startswith("..") and entry.name != version:
            shutil.rmtree(entry)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
