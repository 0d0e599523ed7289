"""What the links of a testbed are and have carried, as values and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from mesh.testbed.plan import Shape


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One direction of a link.

    Attributes:
        link: name of the link.
        origin, to: hosts.
        shape: what it does to packets now.
        packets, bytes: carried so far.
        lost, overflowed: packets that the loss took, and that found the buffer full.
    """

    link: str
    origin: str
    to: str
    shape: Shape
    packets: int
    bytes: int
    lost: int
    overflowed: int

    def to_json(self) -> dict[str, Any]:
        """Returns the lane as reports hold it."""
        counts = {"packets": self.packets, "bytes": self.bytes, "lost": self.lost, "overflowed": self.overflowed}
        shape = {each.name: getattr(self.shape, each.name) for each in fields(Shape)}
        return {"link": self.link, "from": self.origin, "to": self.to, **shape, **counts}


def parse_lanes(status: Mapping[str, Any]) -> tuple[LaneStatus, ...]:
    """Returns the lanes of what a wire said about itself."""
    lanes = []
    for link in status["links"]:
        for lane in link["lanes"]:
            shape = Shape(**{each.name: lane[each.name] for each in fields(Shape)})
            counts = {key: lane[key] for key in ("packets", "bytes", "lost", "overflowed")}
            lanes.append(LaneStatus(link["name"], lane["from"], lane["to"], shape, **counts))
    return tuple(lanes)


def build_table(lanes: Sequence[LaneStatus], title: str) -> Table:
    """Returns the lanes as a table, a row for each direction."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
    for name in ("link", "towards", "is", "packets", "MiB", "dropped"):
        words = name in ("link", "towards", "is")
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "is")
    for lane in lanes:
        counts = (f"{lane.packets:,}", f"{lane.bytes / 2**20:,.1f}", f"{lane.lost + lane.overflowed:,}")
        table.add_row(lane.link, lane.to, str(lane.shape), *counts)
    return table
