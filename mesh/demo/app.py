"""Runs a mesh on this machine and a fleet of cameras over real video, and reports what it did."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from rich.console import Console

from mesh.demo.monitor import Monitor
from mesh.demo.results import show_results, write_results
from mesh.demo.run import DemoRun
from mesh.demo.settings import DemoSettings
from mesh.interrupt import EXIT_INTERRUPTED, Interrupted
from mesh.local_mesh import NODE_COMMAND, MeshPlan
from mesh.testbed.status import build_table as build_links
from services.host import read_settings

_EXIT_FAILED = 1
_EXAMPLES = (
    "starling demo --agents 12",
    "starling demo --seconds 60 --rtt-ms 80 --deadline-ms 150",
    "starling demo --testbed --loss 0.01",
)


def main(argv: Sequence[str], *, node_command: tuple[str, ...] = NODE_COMMAND) -> int:
    """Runs `starling demo` and returns its exit status.

    Args:
        argv: flags.
        node_command: starts one node.

    Returns:
        0 if frames were answered and none failed, 1 if not, 130 if stopped before the first frame.

    Raises:
        SettingsError: a flag or a variable is wrong.
        MeshError: a part is missing, did not start or broke; says which and why.
    """
    settings = read_settings(
        DemoSettings, argv, os.environ, prog="starling demo", description=__doc__ or "", examples=_EXAMPLES
    )
    plan = MeshPlan(
        gateway=settings.gateway,
        repository=settings.repository,
        models=(settings.model,),
        edges=settings.edges,
        clouds=settings.clouds,
        rtt_ms=settings.rtt_ms,
        run_dir=settings.out,
        node_command=node_command,
    )
    console = Console(soft_wrap=True)
    monitor = Monitor(console, settings.title, settings.seconds)
    try:
        run = asyncio.run(DemoRun(settings, plan, monitor, console).run())
    except Interrupted:
        console.print("stopped before the first frame; nothing to report", highlight=False)
        return EXIT_INTERRUPTED
    report = monitor.build_report(run.tier_by_node)
    show_results(console, settings, report)
    if run.links is not None:
        console.print(build_links(run.links.lanes, f"links: {run.links.what}"))
    for path in write_results(settings, monitor, report, run):
        console.print(f"wrote {path}", highlight=False)
    return 0 if report.is_good else _EXIT_FAILED
