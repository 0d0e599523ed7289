"""Runs several hosts on one machine, joined by links that can be changed while they carry."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich_argparse import RawDescriptionRichHelpFormatter

from mesh.errors import ChildFailed, MeshError
from mesh.interrupt import EXIT_INTERRUPTED, Interrupted, unless, watch_interrupts
from mesh.supervisor import Supervisor
from mesh.testbed.errors import ChangeRefused, TestbedMissing
from mesh.testbed.plan import Link, Shape, TestbedPlan, read_plan
from mesh.testbed.status import build_table, parse_lanes
from mesh.testbed.testbed import open_testbed
from mesh.testbed.wire_control import ask, build_change, find_testbeds, read_status

DEFAULT_NAME = "testbed"
DEFAULT_PLAN = (
    Link("agents", "edge", Shape(delay_ms=1, jitter_ms=0.5)),  # a radio or a LAN
    Link("edge", "cloud", Shape(delay_ms=20, jitter_ms=3)),  # a site's way to a region
)
_REFRESH_S = 0.5
_EPILOG = """examples:
  starling testbed up                                          agents, an edge and a cloud, until Ctrl-C
  starling testbed up --plan lte.toml --name lte
  starling testbed show --watch
  starling testbed set edge-cloud --delay-ms 80 --loss 0.01    while everything runs
  starling testbed set edge-cloud --towards cloud --rate-mbit 5
  starling testbed set edge-cloud --cut                        a partition; --heal ends it
  starling testbed exec edge -- ping -c 3 10.77.0.3            any program, at any host
  starling demo --testbed                                      the demo over such links

a plan is a file like this; hosts are those that are linked, 10.77.0.1 is the first:
  [[link]]
  between = ["edge", "cloud"]
  delay_ms = 20
  jitter_ms = 3
  loss = 0.01
  rate_mbit = 100

Needs root (or the capabilities NET_ADMIN and SYS_ADMIN) and /dev/net/tun. Nothing is left behind, even by kill -9.
"""


def main(argv: Sequence[str]) -> int:
    """Runs `starling testbed` and returns its exit status: 0 done, 2 wrong usage; `exec` returns the program's.

    Raises:
        MeshError: says what was found and what to do; the command line prints it.
    """
    ours, words = _split(argv)
    parser = _build_parser()
    arguments, left = parser.parse_known_args(ours)
    if left:
        parser.exit(2, _explain_words(arguments.command, left))
    console = Console(soft_wrap=True)
    match arguments.command:
        case "up":
            plan = read_plan(arguments.plan, arguments.plan.stem) if arguments.plan else None
            return _up(plan, arguments.name, console)
        case "show":
            return _show(_choose(arguments.name), arguments, console)
        case "set":
            return _set(_choose(arguments.name), arguments, console)
        case "exec":
            _execute(_choose(arguments.name), arguments.host, words)
    return 0


def _explain_words(command: str, left: Sequence[str]) -> str:
    """Returns what to tell about words that a command does not take."""
    what = f"starling testbed {command}: found {' '.join(left)!r}, which it does not take; "
    if command == "up" and not left[0].startswith("-"):
        return f"{what}a plan is a file given as --plan {left[0]}\n"
    return f"{what}see starling testbed {command} --help\n"


def _up(plan: TestbedPlan | None, name: str | None, console: Console) -> int:
    if plan is None:
        plan = TestbedPlan(name or DEFAULT_NAME, DEFAULT_PLAN)
    elif name is not None:
        plan = TestbedPlan(name, plan.links, plan.seed)
    try:
        asyncio.run(_hold(plan, console))
    except Interrupted:
        return EXIT_INTERRUPTED
    return 0


async def _hold(plan: TestbedPlan, console: Console) -> None:
    """Returns once the testbed was ended on request.

    Raises:
        Interrupted: before it was up.
        MeshError: it cannot be had, or its process broke.
    """
    async with watch_interrupts() as stop, Supervisor() as supervisor:
        bed = await unless(stop, open_testbed(plan, supervisor, needs_wire=True))
        console.print(build_table(await bed.read_lanes(), f"testbed {plan.name}"))
        for host in plan.hosts:
            console.print(f"  {host:<15} {plan.get_address(host)}", highlight=False)
        console.print(f"testbed {plan.name} is up: {bed.what}; Ctrl-C ends it", highlight=False)
        (wire,) = supervisor.children
        try:
            await unless(stop, wire.wait())
        except Interrupted:
            return
        raise ChildFailed(wire.name, wire.exit_code or 0, wire.stderr_tail)


def _show(name: str, arguments: argparse.Namespace, console: Console) -> int:
    status = read_status(name)
    if arguments.json:
        lanes = [lane.to_json() for lane in parse_lanes(status)]
        late = {key: status[key] for key in ("late_us_p50", "late_us_p99")}
        print(json.dumps({"name": name, "hosts": status["hosts"], "links": lanes, **late}, indent=1))
        return 0
    title = "testbed {name}; packets handed over late by {late_us_p50:g} us (p50), {late_us_p99:g} us (p99)"
    if not arguments.watch:
        console.print(build_table(parse_lanes(status), title.format(**status)))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while True:  # until Ctrl-C, or until the testbed ends
            live.update(build_table(parse_lanes(status), title.format(**status)), refresh=True)
            time.sleep(_REFRESH_S)
            status = read_status(name)


def _set(name: str, arguments: argparse.Namespace, console: Console) -> int:
    values = {each.name: getattr(arguments, each.name) for each in fields(Shape)}
    given = {key: value for key, value in values.items() if value is not None}
    if arguments.cut or arguments.heal:
        given["loss"] = 1.0 if arguments.cut else 0.0
    if not given:
        raise ChangeRefused(f"nothing to change; give values such as `starling testbed set {arguments.link} --cut`")
    ask(name, build_change(arguments.link, arguments.towards, given))
    lanes = [lane for lane in parse_lanes(read_status(name)) if lane.link == arguments.link]
    for lane in lanes:
        console.print(f"{lane.origin} to {lane.to}: {lane.shape}", highlight=False)
    return 0


def _execute(name: str, host: str, words: Sequence[str]) -> None:
    """Becomes the program, at a host.

    Raises:
        MeshError: there is no such host or program.
    """
    namespaces = {each["name"]: each["namespace"] for each in read_status(name)["hosts"]}
    if host not in namespaces:
        raise MeshError(f"found no host {host!r} in testbed {name!r}; expected one of {', '.join(namespaces)}")
    command = list(words) or [os.environ.get("SHELL", "/bin/sh")]
    if shutil.which(command[0]) is None:
        raise MeshError(f"found no program {command[0]!r} to run at {host}")
    sys.stdout.flush()
    os.execvp("nsenter", ["nsenter", f"--net={namespaces[host]}", "--", *command])  # noqa: S606 - it is what was asked


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Returns our own arguments and those after `--`, which are a program's."""
    if "--" not in argv:
        return argv, ()
    at = list(argv).index("--")
    return argv[:at], argv[at + 1 :]


def _choose(name: str | None) -> str:
    """Returns the testbed that is meant: the one of the name, or the only one.

    Raises:
        TestbedMissing: there is none, or more than one to choose from.
    """
    running = find_testbeds()
    if name is None and len(running) == 1:
        return running[0]
    if (name or DEFAULT_NAME) not in running:
        raise TestbedMissing(name or DEFAULT_NAME, running)
    return name or DEFAULT_NAME


class _Help(RawDescriptionRichHelpFormatter):
    """Takes brackets for brackets: a plan has some."""

    help_markup = False
    text_markup = False


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starling testbed", description=__doc__, epilog=_EPILOG, formatter_class=_Help, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=about, description=about, formatter_class=_Help, allow_abbrev=False)
        one.add_argument("--name", help=f"which testbed (default: the only one, or {DEFAULT_NAME})")
        return one

    up = add("up", "start hosts and links, until Ctrl-C")
    up.add_argument("--plan", type=Path, metavar="FILE", help="TOML file (default: agents, an edge and a cloud)")
    show = add("show", "show the links and what they carried")
    how = show.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for programs")
    how.add_argument("--watch", action="store_true", help="until Ctrl-C")
    change = add("set", "change a link while it carries; what is not named stays")
    change.add_argument("link", metavar="LINK", help="such as edge-cloud")
    change.add_argument("--towards", metavar="HOST", help="only packets to this end (default: both ways)")
    change.add_argument("--delay-ms", type=float, metavar="MS", help="time from host to host")
    change.add_argument("--jitter-ms", type=float, metavar="MS", help="how far a packet's own time is off it at most")
    change.add_argument("--rate-mbit", type=float, metavar="MBIT", help="line rate; 0 for no limit")
    change.add_argument("--reorder", type=float, metavar="SHARE", help="share of packets that may overtake, 0 to 1")
    change.add_argument("--buffer-ms", type=float, metavar="MS", help="longest wait for the line")
    losing = change.add_mutually_exclusive_group()
    losing.add_argument("--loss", type=float, metavar="SHARE", help="share of packets that are lost, 0 to 1")
    losing.add_argument("--cut", action="store_true", help="carry nothing: --loss 1")
    losing.add_argument("--heal", action="store_true", help="lose nothing: --loss 0")
    execute = add("exec", "run a program at a host: the words after `--`, or a shell")
    execute.add_argument("host", metavar="HOST")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
