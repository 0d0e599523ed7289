"""Tests of reading archives that may be hostile or broken."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from engines.assets.archives import read_members
from engines.assets.errors import DownloadTampered
from engines.assets.fake import make_tar, make_zip

FILES = {"package/a.bin": b"alpha", "package/b.bin": b"beta" * 1000}


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize(("name", "make"), [("p.tgz", make_tar), ("p.tar.gz", make_tar), ("p.whl", make_zip)])
def test_named_files_are_read(tmp_path: Path, name: str, make: object) -> None:
    path = write(tmp_path, name, make_zip(FILES) if make is make_zip else make_tar(FILES))
    assert read_members(path, ["package/b.bin"]) == {"package/b.bin": FILES["package/b.bin"]}
    assert read_members(path, FILES) == FILES


def test_debian_packages_are_read(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is needed to make and to read Debian packages")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: thing\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: thing\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr" / "x.txt").write_text("hello")
    subprocess.run(["dpkg-deb", "-b", tree, tmp_path / "thing.deb"], check=True, capture_output=True)
    assert read_members(tmp_path / "thing.deb", ["usr/x.txt"]) == {"usr/x.txt": b"hello"}
    (tmp_path / "broken.deb").write_bytes((tmp_path / "thing.deb").read_bytes()[:200])
    with pytest.raises(DownloadTampered):
        read_members(tmp_path / "broken.deb", ["usr/x.txt"])


@pytest.mark.parametrize("name", ["p.tgz", "p.whl", "p.deb"])
def test_what_is_not_an_archive_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DownloadTampered):
        read_members(write(tmp_path, name, b"not an archive" * 100), ["package/a.bin"])


@pytest.mark.parametrize(("name", "make"), [("p.tgz", make_tar), ("p.whl", make_zip)])
def test_truncated_archives_are_refused(tmp_path: Path, name: str, make: object) -> None:
    data = make_zip(FILES) if make is make_zip else make_tar(FILES)
    with pytest.raises(DownloadTampered):
        read_members(write(tmp_path, name, data[:-40]), FILES)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadTampered, match=r"has no file 'package/c\.bin'"):
        read_members(write(tmp_path, "p.tgz", make_tar(FILES)), ["package/c.bin"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_not_files(tmp_path: Path, kind: bytes) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        info = tarfile.TarInfo("package/a.bin")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(DownloadTampered, match="is a link or a device"):
        read_members(write(tmp_path, "p.tgz", raw.getvalue()), ["package/a.bin"])


@pytest.mark.parametrize("outside", ["../../evil", "/tmp/evil", "package/../../evil"])
def test_paths_that_lead_outside_are_never_written(tmp_path: Path, outside: str) -> None:
    path = write(tmp_path, "p.tgz", make_tar({outside: b"evil", **FILES}))
    before = sorted(tmp_path.parent.rglob("*"))
    assert read_members(path, FILES) == FILES
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["p.tgz", "p.whl"])
def test_files_too_large_to_be_ours_are_refused(tmp_path: Path, name: str) -> None:
    data = make_zip(FILES) if name == "p.whl" else make_tar(FILES)
    with pytest.raises(DownloadTampered, match="4000 bytes, more than 10"):
        read_members(write(tmp_path, name, data), FILES, bytes_max=10)
