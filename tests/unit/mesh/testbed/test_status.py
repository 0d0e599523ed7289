"""The table of links fits a terminal of 80 columns, figures first."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mesh.testbed import LaneStatus, Shape
from mesh.testbed.status import build_table


@pytest.mark.parametrize(
    "shape",
    [
        Shape(delay_ms=80, jitter_ms=3, loss=0.01),
        Shape(delay_ms=80, jitter_ms=3, loss=0.01, rate_mbit=100, reorder=0.01, buffer_ms=50),
    ],
)
def test_no_figure_is_cut(shape: Shape) -> None:
    lane = LaneStatus("gateway-cloud-1", "gateway", "cloud-1", shape, 1_103_918, 10 << 30, 12_000, 345)
    console = Console(file=io.StringIO(), width=80)
    console.print(build_table([lane], "links"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("packets", "MiB", "dropped", "gateway-cloud-1", "cloud-1", "1,103,918", "10,240.0", "12,345"):
        assert shown in text, text
