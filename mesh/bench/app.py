"""Measures what this machine can do; fails when a bar does not hold."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
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
from mesh.bench.result import Result, open_console
from mesh.bench.rig import Rig, open_rig
from services.host import each_of, name_words, read_settings, setting

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
_EXAMPLES = (
    "starling bench --list",
    "starling bench unary",
    "starling bench goodput tenants --out out/bench",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What `starling bench` needs to know."""

    env_prefix: ClassVar[str] = "BENCH"

    name: tuple[str, ...] = setting(
        (), help="benchmark to run, repeatable", metavar="NAME", check=each_of((*BENCHMARKS, _ALL))
    )
    out: Path = setting(Path("out/bench"), help="folder for NAME.json, or a file.json for one benchmark")
    list: bool = setting(False, help="list the benchmarks and end")


def main(argv: Sequence[str]) -> int:
    """Runs benchmarks by name; returns 1 when a bar does not hold."""
    # `starling bench NAME` reads better than `--name NAME`; both work.
    words = name_words(argv, repeat("--name"))
    settings = read_settings(
        BenchSettings, words, os.environ, prog="starling bench", description=__doc__ or "", examples=_EXAMPLES
    )
    console = open_console()
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
