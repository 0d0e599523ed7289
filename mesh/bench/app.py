"""Measures what this machine can do; fails when a bar does not hold."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from mesh.bench import (
    admission,
    autopilot,
    control,
    detector,
    faults,
    frame_cache,
    goodput,
    memory,
    mesh,
    open_inference,
    policy,
    security,
    ssim,
    tenants,
    testbed,
    unary,
)
from mesh.bench.result import Result
from mesh.bench.rig import Rig, open_rig
from services.host import read_settings, setting

# A new benchmark is one new file and one line here.
BENCHMARKS: Mapping[str, Callable[[Rig], Awaitable[Result]]] = {
    "unary": unary.run,
    "detector": detector.run,
    "memory": memory.run,
    "policy": policy.run,
    "open_inference": open_inference.run,
    "goodput": goodput.run,
    "tenants": tenants.run,
    "admission": admission.run,
    "autopilot": autopilot.run,
    "frame_cache": frame_cache.run,
    "mesh": mesh.run,
    "control": control.run,
    "faults": faults.run,
    "security": security.run,
    "ssim": ssim.run,
    "testbed": testbed.run,
}
_ALL = "all"
_WIDTH_UNSEEN = 140


def _known(names: tuple[str, ...]) -> str | None:
    unknown = [name for name in names if name not in (*BENCHMARKS, _ALL)]
    return f"one of {', '.join((*BENCHMARKS, _ALL))}" if unknown else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What `starling bench` needs to know."""

    env_prefix: ClassVar[str] = "BENCH"

    name: tuple[str, ...] = setting((), help="benchmark to run, repeatable", metavar="NAME", check=_known)
    out: Path = setting(Path("out/bench"), help="folder for NAME.json, or a file.json for one benchmark")
    list: bool = setting(False, help="list the benchmarks and end")


def main(argv: Sequence[str]) -> int:
    """Runs benchmarks by name; returns 1 when a bar does not hold."""
    # `starling bench NAME` reads better than `--name NAME`; both work.
    names = []
    rest = list(argv)
    while rest and not rest[0].startswith("-"):
        names += ["--name", rest.pop(0)]
    settings = read_settings(
        BenchSettings, [*names, *rest], os.environ, prog="starling bench", description=__doc__ or ""
    )
    # A file or a pipe has no width: tables are written whole.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDTH_UNSEEN)
    if settings.list or not settings.name:
        width = max(map(len, BENCHMARKS))
        for name, run in BENCHMARKS.items():
            summary = (run.__doc__ or "").partition("\n")[0]
            console.print(f"  [bold]{name:<{width}}[/]  {summary}", highlight=False)
        return 0
    chosen = list(BENCHMARKS) if _ALL in settings.name else list(dict.fromkeys(settings.name))
    results = asyncio.run(_run(chosen, settings.out, console))
    return 0 if all(result.holds for result in results) else 1


async def _run(names: Sequence[str], out: Path, console: Console) -> list[Result]:
    results = []
    for name in names:
        with console.status(f"measuring {name}; keep the machine quiet"):
            async with open_rig(console) as rig:
                result = await BENCHMARKS[name](rig)
        result.show(console)
        path = out if out.suffix == ".json" and len(names) == 1 else out / f"{name}.json"
        result.write(path)
        console.print(f"  written to {path}\n", highlight=False)
        results.append(result)
    return results
