"""Runs a mesh on this machine, nodes behind a gateway, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from mesh.assets import get_model, get_repository, pull_missing
from mesh.certs.app import DEFAULT_FOLDER
from mesh.child import Child
from mesh.control.settings import DEFAULT_ADDRESS
from mesh.demo.settings import DEFAULT_FOLDER as DEMO_FOLDER
from mesh.demo.settings import PHOTO
from mesh.errors import ChildFailed
from mesh.gateway.security import DEFAULT_RATE, Rate
from mesh.interrupt import EXIT_INTERRUPTED, Interrupted, unless, watch_interrupts
from mesh.local_mesh import NODE_COMMAND, LocalMesh, MeshPlan, check_plan, start_mesh
from mesh.local_security import TENANT
from mesh.supervisor import Supervisor
from services.host import Address, at_least, between, read_settings, readable_by, setting

_EXAMPLES = (
    "starling up",
    "starling up --model nanodet --model raptor --edges 1 --clouds 0",
    "starling up --secure --tenant-rate-of gold=2000",
)


def parse_rate(text: str) -> tuple[str, Rate]:
    """Returns the tenant and the rate that `NAME=REQUESTS` spells; twice as many at once.

    Raises:
        ValueError: it spells none.

    >>> parse_rate("gold=2000")
    ('gold', Rate(per_s=2000, burst=4000))
    """
    tenant, _, per_s = text.rpartition("=")
    if not (tenant and per_s.isdecimal()):
        raise ValueError(f"{text!r} is no rate; expected NAME=REQUESTS")
    return tenant, Rate(int(per_s), 2 * int(per_s))


def _check_rates(texts: tuple[str, ...]) -> str | None:
    if problem := readable_by(parse_rate, "NAME=REQUESTS with at least one request a second")(texts):
        return problem
    tenants = {parse_rate(text)[0] for text in texts}
    return None if len(tenants) == len(texts) else "one rate for each tenant"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What `starling up` needs to know."""

    env_prefix: ClassVar[str] = "UP"

    gateway: Address = setting(Address("127.0.0.1", 50051), help="where the gateway listens; port 0 takes a free one")
    control: Address = setting(
        DEFAULT_ADDRESS, help="where the control plane listens, also for `starling mesh`; port 0 takes a free one"
    )
    edges: int = setting(2, help="number of edge nodes", check=at_least(0))
    clouds: int = setting(1, help="number of cloud nodes", check=at_least(0))
    rtt_ms: float = setting(40.0, help="round trip to the cloud nodes", check=between(0, 10_000))
    model: tuple[str, ...] = setting(("nanodet",), help="model to load, repeatable; pulled if missing", metavar="NAME")
    repository: Path = setting(get_repository(os.environ), help="model repository of the nodes", metavar="DIR")
    out: Path = setting(Path("out/up"), help="folder for the gateway's configuration and log")
    secure: bool = setting(False, help="certificates on every connection, tokens, rights and limits at the gateway")
    tenant_rate: int = setting(
        DEFAULT_RATE.per_s,
        help="requests a second of each tenant, with --secure; twice as many at once",
        check=at_least(1),
    )
    tenant_rate_of: tuple[str, ...] = setting(
        (),
        help="another rate for one tenant, repeatable: NAME=REQUESTS",
        metavar="RATE",
        check=_check_rates,
    )
    tenant_rate_everywhere: bool = setting(
        False, help="count a tenant over all gateways together, in the control plane, with --secure"
    )
    certs: Path = setting(DEFAULT_FOLDER, help="folder of certificates for --secure, made if missing", metavar="DIR")

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts."""
        if self.edges + self.clouds < 1:
            yield "--edges and --clouds are both 0; a mesh has at least one node"
        if not self.secure and (self.tenant_rate_of or self.tenant_rate_everywhere):
            yield "--tenant-rate-of and --tenant-rate-everywhere need --secure: without it, anybody may name any tenant"


def main(argv: Sequence[str], *, node_command: tuple[str, ...] = NODE_COMMAND) -> int:
    """Runs `starling up` and returns its exit status: 0 after Ctrl-C.

    Args:
        argv: flags.
        node_command: starts one node.

    Raises:
        SettingsError: a flag or a variable is wrong.
        MeshError: a part is missing, did not start or broke; says which and why.
    """
    settings = read_settings(
        UpSettings, argv, os.environ, prog="starling up", description=__doc__ or "", examples=_EXAMPLES
    )
    plan = MeshPlan(
        gateway=settings.gateway,
        repository=settings.repository,
        models=settings.model,
        edges=settings.edges,
        clouds=settings.clouds,
        rtt_ms=settings.rtt_ms,
        run_dir=settings.out,
        node_command=node_command,
        certs=settings.certs if settings.secure else None,
        control=settings.control,
        control_flags=("--routes", str(settings.out / "routes.json")),
        rate=Rate(settings.tenant_rate, 2 * settings.tenant_rate),
        rate_by_tenant=dict(map(parse_rate, settings.tenant_rate_of)),
        rate_everywhere=settings.tenant_rate_everywhere,
    )
    console = Console(soft_wrap=True)
    try:
        asyncio.run(_run(plan, console))
    except Interrupted:
        console.print("stopped before the mesh was up", highlight=False)
        return EXIT_INTERRUPTED
    return 0


async def _run(plan: MeshPlan, console: Console) -> None:
    """Returns once the mesh was stopped on request.

    Raises:
        Interrupted: stopped before it was up.
        MeshError: a part is missing, did not start, or the gateway broke.
    """
    check_plan(plan)
    left: asyncio.Queue[Child] = asyncio.Queue()
    async with watch_interrupts() as stop, Supervisor(left.put_nowait) as supervisor:
        mesh = await unless(stop, _start(supervisor, plan, console))
        console.print(build_panel(mesh, plan))
        console.print("\n".join(build_examples(mesh)), highlight=False, markup=False)
        while True:
            try:
                child = await unless(stop, left.get())
            except Interrupted:
                break
            if child is mesh.gateway_child:
                raise ChildFailed(child.name, child.exit_code or 0, child.stderr_tail)
            if child.name == "control":
                console.print(_build_farewell(child, "agents are served on while it starts again"), highlight=False)
                await supervisor.spawn([mesh.control_again])
            elif child.name != "models pull":
                console.print(_build_farewell(child, "it stays away"), highlight=False)
        console.print("stopping", highlight=False)


async def _start(supervisor: Supervisor, plan: MeshPlan, console: Console) -> LocalMesh:
    await pull_missing(supervisor, [get_model(plan.repository, name) for name in plan.models])
    models = ", ".join(plan.models) or f"all models of {plan.repository}"
    console.print(f"starting {plan.edges} edge and {plan.clouds} cloud nodes with {models}", highlight=False)
    with console.status("loading models and compiling them for this machine"):
        return await start_mesh(supervisor, plan)


def build_panel(mesh: LocalMesh, plan: MeshPlan) -> Panel:
    """Returns what a user needs to know about a running mesh."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("gateway", f"[bold]{mesh.gateway}[/]  gRPC, the only address agents need")
    for node in mesh.nodes:
        far = f", {plan.rtt_ms:g} ms away" if node.tier == "cloud" else ""
        lost = "  [red]the gateway does not reach it[/]" if node.name in mesh.unreached else ""
        facts.add_row(node.name, f"{', '.join(node.models)}{far}  http://{node.metrics}/metrics{lost}")
    facts.add_row("control", f"{mesh.control}  http://{mesh.control_metrics}/metrics")
    facts.add_row("envoy", f"http://{mesh.admin}")
    if mesh.security is not None:
        facts.add_row("secure", f"certificates and tokens in {_shorten(mesh.security.store.root)}")
    return Panel(facts, title="Starling is up", subtitle="Ctrl-C stops it", expand=False)


def build_examples(mesh: LocalMesh) -> list[str]:
    """Returns commands to paste; a panel would break them."""
    model = mesh.nodes[0].models[0].partition(":")[0] if mesh.nodes[0].models else "MODEL"
    target = "" if str(mesh.gateway) == "127.0.0.1:50051" else f" --target {mesh.gateway}"
    call = f"starling call {model}{target} --input frame=@{find_photo()} --out result.png"
    status = f"starling mesh status{_control_flag(mesh)}"
    if mesh.security is None:
        return [call, f"grpcurl -plaintext {mesh.gateway} list", status]
    root = _shorten(mesh.security.store.root)
    agent, token = f"{root}/agent/agent", f"{root}/tokens/{TENANT}.jwt"
    mine = f"--ca {agent}/ca.crt --cert {agent}/tls.crt --key {agent}/tls.key"
    grpcurl = mine.replace("--ca ", "-cacert ").replace("--", "-")
    folder = "" if root == DEFAULT_FOLDER else f" --dir {root}"
    return [
        f"{call} {mine} --token-file {token}",
        f"grpcurl {grpcurl} {mesh.gateway} list",
        f"{status} --certs {_shorten(mesh.security.admin_certs)}",
        f"starling certs token{folder} --tenant acme --scope infer",
        f"starling certs rotate{folder}",
    ]


def find_photo() -> Path:
    """Returns a picture to ask about: the frame that a demo left here, else one that the user has to find."""
    photo = DEMO_FOLDER / PHOTO
    return photo if photo.is_file() else Path(PHOTO)


def _control_flag(mesh: LocalMesh) -> str:
    """Returns what tells `starling mesh` where the control plane is, if it has to be told."""
    return "" if mesh.control == DEFAULT_ADDRESS else f" --control {mesh.control}"


def _shorten(path: Path) -> Path:
    """Returns a path as it is written from here, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _build_farewell(child: Child, what_now: str) -> str:
    # Who was killed had no time to say why; its last line is about something else.
    last_words = child.stderr_tail.splitlines()[-1:] if (child.exit_code or 0) > 0 else []
    why = f": {last_words[0]}" if last_words else ""
    return f"[yellow]![/] {child.name} ended with status {child.exit_code}{why}; {what_now}"
