"""What a recipe gets and gives: the seam between the catalogue and the code that makes one model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from engines.assets.errors import QualityTooLow
from engines.assets.packages import Member
from engines.assets.progress import Progress
from engines.config import ModelConfig
from engines.repository import MODEL_NAME, Release

VERSION = 1

# Makes a release from the contents of its members.
Recipe = Callable[["Materials"], Release]


@dataclass(frozen=True, slots=True)
class Materials:
    """The verified inputs of a recipe.

    Attributes:
        asset: name under which the result is published.
        contents: bytes of each member that the asset declares.
        license: SPDX expression that the catalogue gives.
        progress: where to report long steps.
    """

    asset: str
    contents: Mapping[Member, bytes]
    license: str
    progress: Progress

    @property
    def sources(self) -> tuple[str, ...]:
        """Returns the packages used, as manifests spell them."""
        packages = {member.package for member in self.contents}
        return tuple(sorted(f"{package} sha256:{package.sha256}" for package in packages))

    def text_lines(self, member: Member) -> tuple[str, ...]:
        """Returns the non-empty lines of a text member."""
        return tuple(line for line in self.contents[member].decode().splitlines() if line)

    def release(
        self, config: ModelConfig, model: onnx.ModelProto, report: Mapping[str, Any], labels: tuple[str, ...] = ()
    ) -> Release:
        """Returns what is published of a model that was made from these."""
        return Release(
            config=config,
            version=VERSION,
            files={MODEL_NAME: model.SerializeToString(deterministic=True)},
            labels=labels,
            license=self.license,
            sources=self.sources,
            report=report,
        )


def report_errors(materials: Materials, errors: Mapping[str, float], *, bar: float, reference: str) -> dict[str, float]:
    """Returns what a report says of the largest differences from a reference, of one output, by runtime.

    Raises:
        QualityTooLow: one is not within the bar.
    """
    error_max = max(errors.values())
    if not error_max <= bar:
        raise QualityTooLow(
            f"{materials.asset}: differs from {reference} by {error_max:.2e}; expected at most {bar:.0e};"
            " it was not published",
            asset=materials.asset,
            measured=error_max,
            bar=bar,
        )
    return {"error_max": error_max, **errors, "bar": bar}
