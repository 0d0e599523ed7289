"""The demo's hosts and links, and what they carried."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.demo.settings import DemoSettings
from mesh.endpoint import Tier
from mesh.testbed import LaneStatus, Link, Shape, Testbed, TestbedPlan

AGENTS = "agents"
GATEWAY = "gateway"

_RADIO = Shape(delay_ms=1.0, jitter_ms=0.5)  # agents and the site's access point
_SITE = Shape(delay_ms=0.1)  # a switch between the gateway and the site's own nodes


@dataclass(frozen=True, slots=True)
class Links:
    """What lay between the hosts of a run.

    Attributes:
        what: real links or what stood in for them, and why.
        lanes: each direction of each link at the end of the run.
    """

    what: str
    lanes: Sequence[LaneStatus]

    def to_json(self) -> Mapping[str, Any]:
        """Returns the links as `report.json` holds them."""
        return {"what": self.what, "lanes": [lane.to_json() for lane in self.lanes]}


def plan_testbed(settings: DemoSettings) -> TestbedPlan:
    """Returns agents, gateway and nodes, each a host; edge nodes stand beside the gateway, cloud nodes afar."""
    region = Shape(delay_ms=settings.rtt_ms / 2, jitter_ms=settings.jitter_ms, loss=settings.loss)
    links = [Link(AGENTS, GATEWAY, _RADIO)]
    links += [Link(GATEWAY, f"{Tier.EDGE}-{n + 1}", _SITE) for n in range(settings.edges)]
    links += [Link(GATEWAY, f"{Tier.CLOUD}-{n + 1}", region) for n in range(settings.clouds)]
    return TestbedPlan(f"demo-{os.getpid()}", tuple(links), settings.seed)


async def read_links(bed: Testbed) -> Links:
    """Returns the links of a testbed that runs."""
    return Links(bed.what, await bed.read_lanes())
