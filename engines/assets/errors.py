"""What can go wrong while fetching and making assets."""

from engines.errors import EngineError


class AssetNotFound(EngineError):
    """No asset of this name is in the catalogue. Fact: `asset`."""

    status = "NOT_FOUND"
    reason = "ASSET_NOT_FOUND"


class AssetPlanned(EngineError):
    """The asset is known but cannot be made yet. Fact: `asset`."""

    status = "UNIMPLEMENTED"
    reason = "ASSET_NOT_YET"


class DownloadFailed(EngineError):
    """A registry client is missing, failed, or stopped making progress. Facts: `package`, `client`."""

    status = "UNAVAILABLE"
    reason = "DOWNLOAD_FAILED"


class DownloadTampered(EngineError):
    """What arrived is not what was pinned. Facts: `package`, `expected_sha256`, `found_sha256`."""

    status = "DATA_LOSS"
    reason = "DOWNLOAD_TAMPERED"


class QualityTooLow(EngineError):
    """A made model misses the bar it must pass to be published. Facts: `asset`, `measured`, `bar`."""

    status = "FAILED_PRECONDITION"
    reason = "QUALITY_TOO_LOW"
