"""Settings of the demo."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mesh.assets import get_repository, get_video
from services.host import Address, above, at_least, between, not_empty, setting

DEFAULT_FOLDER = Path("out/demo")
PHOTO = "photo.jpg"
"""A frame of the video, to ask about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """What `starling demo` needs to know."""

    env_prefix: ClassVar[str] = "DEMO"

    agents: int = setting(12, help="number of agents", check=between(1, 1000))
    hz: float = setting(4.0, help="frames per second of each agent", check=between(0.01, 100))
    seconds: float = setting(20.0, help="length of the measurement", check=above(0))
    rtt_ms: float = setting(40.0, help="round trip to the cloud nodes", check=between(0, 10_000))
    testbed: bool = setting(False, help="give agents, gateway and nodes a host each, with real links (needs root)")
    jitter_ms: float = setting(3.0, help="with --testbed, jitter of the way to the cloud", check=between(0, 10_000))
    loss: float = setting(0.0, help="with --testbed, share of packets lost on that way, 0 to 1", check=between(0, 1))
    deadline_ms: float = setting(100.0, help="time an answer may take", check=above(0))
    out: Path = setting(DEFAULT_FOLDER, help="folder for report.json, report.png and photo.jpg, a frame to ask about")
    model: str = setting("nanodet", help="detector to ask; pulled if missing", metavar="NAME", check=not_empty)
    seed: int = setting(0, help="decides the paths and phases of the cameras")
    gateway: Address = setting(Address("127.0.0.1", 50051), help="where the gateway listens; port 0 takes a free one")
    edges: int = setting(2, help="number of edge nodes", check=at_least(0))
    clouds: int = setting(1, help="number of cloud nodes", check=at_least(0))
    repository: Path = setting(get_repository(os.environ), help="model repository of the nodes", metavar="DIR")
    video: Path = setting(get_video(os.environ).path, help="what the cameras look at; pulled if missing")

    @property
    def title(self) -> str:
        """Returns the fleet in a few words."""
        return f"{self.agents} agents at {self.hz:g} Hz"

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts."""
        if self.edges + self.clouds < 1:
            yield "--edges and --clouds are both 0; a mesh has at least one node"
        if not self.video.is_file() and self.video != get_video(os.environ).path:
            yield f"--video {self.video} is not there; `starling models pull vtest` fetches the usual one"
        if self.out.exists() and not self.out.is_dir():
            yield f"--out {self.out} is a file; expected a folder"

    def to_json(self) -> dict[str, Any]:
        """Returns what decides the figures, as `report.json` holds it."""
        return {
            "agents": self.agents,
            "hz": self.hz,
            "seconds": self.seconds,
            "rtt_ms": self.rtt_ms,
            "deadline_ms": self.deadline_ms,
            "model": self.model,
            "seed": self.seed,
            "testbed": self.testbed,
            "edges": self.edges,
            "clouds": self.clouds,
        }
