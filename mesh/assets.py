"""What a command needs on disk, and fetching it before anything starts."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import AssetMissing
from mesh.program import Program
from mesh.supervisor import Supervisor

VIDEO = "vtest"
"""Name under which `starling models pull` fetches the pedestrian video."""

_PULL_COMMAND = (sys.executable, "-P", "-m", "services.host.cli", "models", "pull")


@dataclass(frozen=True, slots=True)
class Asset:
    """A model or a video that can be pulled.

    Attributes:
        name: what `starling models pull` calls it.
        path: what is there once it was pulled.
    """

    name: str
    path: Path


def get_cache_root(environ: Mapping[str, str]) -> Path:
    """Returns the folder of fetched things: `$STARLING_CACHE`, else `~/.cache/starling`."""
    given = environ.get("STARLING_CACHE", "")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "starling"


def get_repository(environ: Mapping[str, str]) -> Path:
    """Returns the model repository that `starling models pull` publishes to."""
    return get_cache_root(environ) / "models"


def get_model(repository: Path, name: str) -> Asset:
    """Returns a model of a repository as an asset; in another one than the cache's it may describe itself."""
    folder = repository / name
    return Asset(name, folder / "config.pbtxt" if repository == get_repository(os.environ) else folder)


def get_video(environ: Mapping[str, str]) -> Asset:
    """Returns the pedestrian video as an asset."""
    return Asset(VIDEO, get_cache_root(environ) / "data" / "vtest.avi")


async def pull_missing(supervisor: Supervisor, assets: Iterable[Asset]) -> None:
    """Pulls the assets that are not there, with the progress on our terminal.

    Raises:
        AssetMissing: an asset is not where pulling would put it, or still not there afterwards; the terminal says why.
    """
    missing = [asset for asset in assets if not asset.path.exists()]
    if not missing:
        return
    cache = get_cache_root(os.environ)
    for asset in missing:
        if not asset.path.is_relative_to(cache):
            raise AssetMissing(
                f"found no {asset.path}; put the model there, or leave --repository out: "
                f"`starling models pull` fetches into {cache} only"
            )
    names = [asset.name for asset in missing]
    program = Program(
        "models pull",
        (*_PULL_COMMAND, *names),
        stop_signal=signal.SIGINT,
        inherits_output=True,
        environ=dict(os.environ),
    )
    (child,) = await supervisor.spawn([program])
    exit_code = await child.wait()
    still = [asset for asset in missing if not asset.path.exists()]
    if still:
        raise AssetMissing(
            f"found no {still[0].path}; `starling models pull {' '.join(names)}` ended with "
            f"status {exit_code}, see above; run it again, or give another --repository"
        )
