"""Tests of pulling: digests, failures half-way, and doing nothing twice."""

import errno
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import DataType, DiskFull, EngineError, ModelConfig, Release, TensorConfig
from engines.assets.cache import Cache, default_root
from engines.assets.catalogue import CATALOGUE, PLANNED, Asset, find_asset
from engines.assets.errors import AssetNotFound, AssetPlanned, DownloadFailed, DownloadTampered, QualityTooLow
from engines.assets.fake import FakePackageSource, make_tar
from engines.assets.making import Materials
from engines.assets.packages import Member, Package, Registry
from engines.assets.progress import SilentProgress
from engines.assets.pull import Pulled, pull, verify


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


FILES = {"package/net.bin": b"weights" * 100, "package/clip.avi": b"video", "package/../evil": b"evil"}
ARCHIVE = make_tar(FILES)
PACKAGE = Package(Registry.NPM, "nets", "1.0.0", sha(ARCHIVE), len(ARCHIVE))
NET, CLIP = (Member(PACKAGE, path, sha(FILES[path])) for path in ("package/net.bin", "package/clip.avi"))


def make(materials: Materials) -> Release:
    x = (TensorConfig("x", DataType.FP32, (1,)),)
    data = {"model.onnx": materials.contents[NET]}
    return Release(ModelConfig(materials.asset, "openvino", 1, x, x), 1, data, sources=materials.sources)


def refuse(materials: Materials) -> Release:
    raise QualityTooLow("INT8 finds nothing; it was not published", asset=materials.asset, measured=0.0, bar=0.9)


CATALOGUE_HERE = {
    asset.name: asset
    for asset in (
        Asset("net", "a network", "MIT", (NET,), make),
        Asset("clip", "a video", "MIT", (CLIP,)),
        Asset("poor", "a network that fails its bar", "MIT", (NET,), refuse),
    )
}


class Pulling:
    """A cache of its own and a fake source."""

    def __init__(self, root: Path) -> None:
        self.cache = Cache(root)
        self.source = FakePackageSource({"nets": ARCHIVE})

    def __call__(self, *names: str, **changed: Asset) -> list[Pulled]:
        catalogue = CATALOGUE_HERE | changed
        return list(pull(names, self.cache, self.source, SilentProgress(), catalogue))

    def files(self) -> list[str]:
        """What lies in the cache, apart from the lock."""
        root = self.cache.root
        found = (path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
        return sorted(str(path.relative_to(root)) for path in found)


@pytest.fixture
def pulling(tmp_path: Path) -> Pulling:
    return Pulling(tmp_path / "cache")


def test_model_and_data_are_published_and_the_archive_is_not_kept(pulling: Pulling) -> None:
    assert [done.fresh for done in pulling("net", "clip")] == [True, True]
    assert pulling.source.fetches == ["nets"]
    version = pulling.cache.repository.find("net")
    version.verify()
    assert version.manifest.sources == (f"npm:nets@1.0.0 sha256:{PACKAGE.sha256}",)
    assert (pulling.cache.data / "clip.avi").read_bytes() == b"video"
    assert pulling.files() == sorted(
        [
            "data/clip.avi",
            *(f"downloads/{member.sha256}" for member in (NET, CLIP)),
            *(f"models/net/{name}" for name in ("1/manifest.json", "1/model.onnx", "config.pbtxt")),
        ]
    )


def test_second_pull_does_nothing(pulling: Pulling) -> None:
    pulling("net", "clip")
    before = {path: (pulling.cache.root / path).stat().st_mtime_ns for path in pulling.files()}
    assert [done.fresh for done in pulling("net", "clip", "net")] == [False, False]
    assert pulling.source.fetches == ["nets"]
    assert before == {path: (pulling.cache.root / path).stat().st_mtime_ns for path in pulling.files()}


@pytest.mark.parametrize("path", ["models/net/1/model.onnx", "models/net/1/manifest.json", "data/clip.avi"])
def test_damaged_results_are_made_again_without_fetching(pulling: Pulling, path: str) -> None:
    pulling("net", "clip")
    (pulling.cache.root / path).write_bytes(b"damaged")
    assert sum(done.fresh for done in pulling("net", "clip")) == 1
    assert pulling.source.fetches == ["nets"]


def test_damaged_members_are_fetched_again(pulling: Pulling) -> None:
    pulling("net")
    (pulling.cache.root / "downloads" / NET.sha256).write_bytes(b"damaged")
    (pulling.cache.root / "models/net/1/model.onnx").unlink()
    pulling("net")
    assert pulling.source.fetches == ["nets", "nets"]


def test_higher_revision_is_made_again(pulling: Pulling) -> None:
    pulling("net")
    (done,) = pulling("net", net=Asset("net", "", "MIT", (NET,), make, revision=2))
    assert done.fresh


def tampered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("change", [tampered, lambda data: data[:-20], lambda data: b""])
def test_tampered_and_truncated_downloads_leave_nothing(pulling: Pulling, change: Callable[[bytes], bytes]) -> None:
    pulling.source = FakePackageSource({"nets": change(ARCHIVE)})
    with pytest.raises(DownloadTampered, match=r"expected .* nothing was kept") as caught:
        pulling("net")
    assert caught.value.facts["expected_sha256"] == PACKAGE.sha256
    assert pulling.files() == []


def test_other_versions_are_accepted_only_if_the_files_are_the_pinned_ones(pulling: Pulling) -> None:
    changed = make_tar({**FILES, "package/new": b"", "package/clip.avi": b"another"})
    pulling.source = FakePackageSource({"nets": changed})
    pulling.source.exact = False
    assert pulling("net")[0].fresh
    other = Pulling(pulling.cache.root.with_name("other"))
    other.source = FakePackageSource({"nets": changed})
    other.source.exact = False
    with pytest.raises(DownloadTampered, match=r"package/clip\.avi has sha256"):
        other("clip")
    assert other.files() == []


def test_full_disk_says_how_much_is_needed_and_leaves_nothing(pulling: Pulling) -> None:
    pulling.source.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFull, match=r"bytes are needed, \d+ are free") as caught:
        pulling("net")
    assert caught.value.facts["needed_bytes"] == PACKAGE.bytes
    assert pulling.files() == []


@pytest.mark.parametrize("error", [DownloadFailed("no network"), KeyboardInterrupt()])
def test_interrupted_downloads_leave_nothing_and_can_be_repeated(pulling: Pulling, error: Exception) -> None:
    pulling.source.error = error
    with pytest.raises(type(error)):
        pulling("net")
    assert pulling.files() == []
    pulling.source.error = None
    assert pulling("net")[0].fresh


def test_leftovers_of_a_killed_process_are_removed(pulling: Pulling) -> None:
    leftover = pulling.cache.root / "downloads" / ".staging-dead"
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    pulling("net")
    assert not leftover.exists()


def test_model_below_its_bar_is_not_published(pulling: Pulling) -> None:
    with pytest.raises(QualityTooLow):
        pulling("poor")
    assert not (pulling.cache.root / "models").exists()


def test_names_are_checked_before_any_work(pulling: Pulling) -> None:
    with pytest.raises(AssetNotFound, match="there is no asset 'nett'; expected one of net, clip, poor"):
        pulling("net", "nett")
    with pytest.raises(AssetPlanned, match="cannot be pulled yet; these can: net, clip, poor"):
        pulling("net", "minilm")
    assert pulling.source.fetches == []


def test_two_processes_take_turns(pulling: Pulling) -> None:
    class Noting(SilentProgress):
        waited = threading.Event()

        def note(self, text: str, /) -> None:
            assert "waiting" in text
            self.waited.set()

    done: list[Pulled] = []
    second = threading.Thread(
        target=lambda: done.extend(pull(["net"], pulling.cache, pulling.source, Noting(), CATALOGUE_HERE))
    )
    with pulling.cache.locked(SilentProgress()):
        second.start()
        assert Noting.waited.wait(10)
        assert done == []
    second.join(10)
    assert [one.name for one in done] == ["net"]


def test_verify_reports_each_version(pulling: Pulling) -> None:
    pulling("net")
    assert [error for _, _, error in verify(pulling.cache.repository)] == [None]
    (pulling.cache.root / "models/net/1/model.onnx").write_bytes(b"")
    ((name, version, error),) = verify(pulling.cache.repository)
    assert (name, version) == ("net", 1)
    assert isinstance(error, EngineError)


def test_catalogue_is_consistent() -> None:
    for name, asset in CATALOGUE.items():
        assert find_asset(name) is asset
        assert asset.license
        assert asset.members
        assert asset.recipe is not None or len(asset.members) == 1
    assert not set(PLANNED) & set(CATALOGUE)


def test_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    assert default_root({"STARLING_CACHE": str(tmp_path)}) == tmp_path
    assert default_root({}) == Path.home() / ".cache" / "starling"
