"""Settings of the node process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from services.host import Address, above, between, existing_dir, not_empty, setting


class Tier(StrEnum):
    """Where a node stands as seen from the agents."""

    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What `starling node` needs to know."""

    env_prefix: ClassVar[str] = "NODE"

    repository: Path = setting(
        help="folder of models, <model>/config.pbtxt and <model>/<version>/model.onnx",
        metavar="DIR",
        check=existing_dir,
    )
    require_manifests: bool = setting(
        False, help="refuse models without a manifest, whose files cannot be checked, such as those written for Triton"
    )
    name: str = setting("node", help="name of this node, echoed in every answer", check=not_empty)
    tier: Tier = setting(Tier.EDGE, help="where the node stands as seen from the agents")
    grpc: Address = setting(
        Address("127.0.0.1", 8001), help="gRPC address; port 0 picks a free one", metavar="HOST:PORT"
    )
    metrics: Address = setting(
        Address("127.0.0.1", 8002),
        help="Prometheus address; port 0 picks a free one",
        metavar="HOST:PORT",
    )
    model: tuple[str, ...] = setting(
        (), help="model to load, repeatable; all of the repository when absent", metavar="NAME"
    )
    grace_s: float = setting(10.0, help="seconds that admitted requests get to finish on SIGTERM", check=above(0))
    message_mib_max: int = setting(64, help="largest gRPC message in MiB; ten 1080p frames fit", check=between(1, 1024))
    streams_max: int = setting(1024, help="concurrent calls of one connection", check=between(1, 100_000))

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts: one port cannot serve two protocols."""
        if self.grpc == self.metrics and self.grpc.port != 0:
            yield f"--grpc and --metrics are both {self.grpc}; give them different ports"
