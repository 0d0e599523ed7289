"""A whole mesh on this machine: control plane, nodes, the delay before the far ones, and the gateway."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from mesh.child import Child
from mesh.endpoint import Tier
from mesh.errors import GatewayNotReady
from mesh.gateway import GatewaySite, bootstrap, check_listen, envoy_program, find_envoy, wait_healthy
from mesh.gateway.security import DEFAULT_RATE, Rate, secure_control
from mesh.hosts import THIS_MACHINE, Hosts
from mesh.local_security import LocalSecurity, prepare_security
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.together import together
from services.host import Address

# -P keeps the caller's working directory off the path: a folder named `services` there is not ours.
NODE_COMMAND = (sys.executable, "-P", "-m", "services.host.cli", "node")
_CONTROL_COMMAND = (sys.executable, "-P", "-m", "services.host.cli", "control")
_DELAY_COMMAND = (sys.executable, "-P", "-m", "mesh.delay")
_FREE_PORT = Address("127.0.0.1", 0)
_GATEWAY = "gateway"
_NODE_READY_S = 120.0  # compiling a large model for every batch size takes its time
_NODE_GRACE_S = 10.0
_HEALTHY_S = 5.0  # a node answers its first health check within milliseconds on an idle machine


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """What to run.

    Attributes:
        gateway: where agents call; port 0 takes a free one.
        control: where nodes, gateways and `starling mesh` call the control plane, on this machine; likewise.
        repository: model repository of every node.
        models: models to load; empty means all of the repository.
        edges, clouds: number of nodes per tier; at least one in all.
        rtt_ms: round trip between the gateway and each cloud node.
        run_dir: directory for the gateway's files; made if missing.
        node_command: starts one node; takes the node's flags.
        certs: folder of certificates, made if missing; plain text on every connection without it.
        rate, rate_by_tenant: how much each tenant may ask, and those with a rate of their own; with certificates only.
        rate_everywhere: the control plane counts too, over all gateways together.
        security: what `start_mesh` made of `certs`.
        hosts: where to run each node, by its name, and the gateway with the control plane, as `gateway`.
        control_flags: further flags of the control plane.
    """

    gateway: Address
    repository: Path
    models: tuple[str, ...]
    edges: int
    clouds: int
    rtt_ms: float
    run_dir: Path
    node_command: tuple[str, ...] = NODE_COMMAND
    certs: Path | None = None
    rate: Rate = DEFAULT_RATE
    rate_by_tenant: Mapping[str, Rate] = field(default_factory=dict)
    rate_everywhere: bool = False
    security: LocalSecurity | None = None
    hosts: Hosts = THIS_MACHINE
    control: Address = _FREE_PORT
    control_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that serves.

    Attributes:
        name, tier: as agents see them in answers.
        grpc: its own address, without delay and gateway.
        metrics: address of its metrics, `/metrics` over HTTP.
        models: `name:version` of each loaded model.
        child: its process.
    """

    name: str
    tier: Tier
    grpc: Address
    metrics: str
    models: tuple[str, ...]
    child: Child


@dataclass(frozen=True, slots=True)
class LocalMesh:
    """A mesh that serves.

    Attributes:
        gateway: the address that agents call.
        admin: Envoy's own interface over HTTP, for people.
        control: the control plane, for `starling mesh status`.
        control_metrics: address of its metrics, `/metrics` over HTTP.
        nodes: the nodes, edges first.
        gateway_child: Envoy's process.
        control_child: the control plane's process; agents are served on without it.
        control_again: starts it again where it was.
        delays: the process before each far node, by the node's name.
        unreached: nodes that serve and that the gateway does not reach, for instance for a wrong certificate.
        security: how to get in; None when anybody can.
    """

    gateway: Address
    admin: Address
    control: Address
    control_metrics: str
    nodes: tuple[RunningNode, ...]
    gateway_child: Child
    control_child: Child
    control_again: Program
    delays: Mapping[str, Child]
    unreached: frozenset[str] = frozenset()
    security: LocalSecurity | None = None


def check_plan(plan: MeshPlan) -> Path:
    """Returns the Envoy program after checking what can be known before anything starts.

    Raises:
        EnvoyMissing: there is no gateway program.
        PortTaken, AddressUnusable: the gateway's or the control plane's address cannot be listened on.
    """
    envoy = find_envoy()
    if plan.hosts is THIS_MACHINE:  # other hosts are new: nobody else listens there
        check_listen(plan.gateway, "--gateway")
        check_listen(plan.control, "--control")
    return envoy


async def start_mesh(supervisor: Supervisor, plan: MeshPlan) -> LocalMesh:
    """Starts everything and returns once the gateway sends requests to every node.

    Raises:
        MeshError: a part is missing, did not start or was not ready in time; says which and why.
    """
    envoy = check_plan(plan)
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    tiers = _tiers(plan)
    flags = plan.control_flags
    if plan.certs is not None:
        prepared = prepare_security(plan.certs, plan.run_dir, list(tiers), datetime.now(UTC), plan.rate)
        limits = replace(prepared.plan, rate_by_tenant=plan.rate_by_tenant, rate_everywhere=plan.rate_everywhere)
        security = replace(prepared, plan=limits)
        plan = replace(plan, security=security)
        flags = (*flags, "--security", str(security.write(plan.run_dir / "security.json")))
        flags = (*flags, "--certs", str(security.control_certs))
    far = [name for name, tier in tiers.items() if tier is Tier.CLOUD and plan.rtt_ms > 0 and not plan.hosts.has_links]
    # What a node has to be told comes first; nodes and gateway then start side by side.
    beside = Address(plan.hosts.get_address(_GATEWAY), 0)
    listen = plan.control if plan.hosts is THIS_MACHINE else beside
    programs = [plan.hosts.place(_GATEWAY, control_program(listen, beside, flags))]
    control, *delays = await supervisor.start([*programs, *(_delay_program(name, plan.rtt_ms) for name in far)])
    delay_by_node = dict(zip(far, delays, strict=True))
    address = Address.parse(control.facts["grpc"])
    site = GatewaySite(_GATEWAY, plan.gateway, address)
    nodes = await supervisor.spawn(_node_programs(plan, tiers, address, delay_by_node))
    start = bootstrap(site) if plan.security is None else secure_control(bootstrap(site), plan.security.plan)
    program = plan.hosts.place(_GATEWAY, envoy_program(envoy, start, plan.run_dir))
    (gateway,) = await supervisor.spawn([program])
    serving = tuple(await together(_serve(node, tiers[node.name], delay_by_node.get(node.name)) for node in nodes))
    await gateway.ready()
    admin = Address.parse(gateway.facts["admin"])
    missing = await plan.hosts.run(_GATEWAY, lambda: wait_healthy(admin, list(tiers), _HEALTHY_S))
    if len(missing) == len(tiers):
        raise GatewayNotReady(sorted(missing), _HEALTHY_S, control.stderr_tail)
    metrics = control.facts["metrics"]
    listens = Address.parse(gateway.facts["grpc"])
    again = plan.hosts.place(_GATEWAY, control_program(address, Address.parse(metrics), flags))
    return LocalMesh(
        listens,
        admin,
        address,
        metrics,
        serving,
        gateway,
        control,
        again,
        delay_by_node,
        frozenset(missing),
        plan.security,
    )


def control_program(listen: Address, metrics: Address, flags: tuple[str, ...] = ()) -> Program:
    """Returns the control plane's program; its facts are `grpc` and `metrics`, each HOST:PORT."""
    command = (*_CONTROL_COMMAND, "--listen", str(listen), "--metrics", str(metrics), *flags)
    return Program("control", command, ready_timeout_s=20.0)


def _tiers(plan: MeshPlan) -> dict[str, Tier]:
    tiers = {f"{Tier.EDGE}-{n + 1}": Tier.EDGE for n in range(plan.edges)}
    return tiers | {f"{Tier.CLOUD}-{n + 1}": Tier.CLOUD for n in range(plan.clouds)}


def _node_programs(
    plan: MeshPlan, tiers: Mapping[str, Tier], control: Address, delays: Mapping[str, Child]
) -> list[Program]:
    advertised = {name: delay.facts["listen"] for name, delay in delays.items()}
    return [_node_program(plan, name, tier, control, advertised.get(name)) for name, tier in tiers.items()]


async def _serve(child: Child, tier: Tier, delay: Child | None) -> RunningNode:
    """Waits until a node serves, and tells the delay before it where it is."""
    facts = await child.ready()
    if delay is not None:
        delay.send_line(f"target {facts['grpc']}")
    return _running_node(child, tier)


def _node_program(plan: MeshPlan, name: str, tier: Tier, control: Address, advertise: str | None) -> Program:
    listen = str(Address(plan.hosts.get_address(name), 0))
    flags = {
        "--repository": str(plan.repository),
        "--name": name,
        "--tier": str(tier),
        "--grpc": listen,
        "--metrics": listen,
        "--control": str(control),
    }
    if advertise is not None:
        flags["--advertise"] = advertise
    words = [word for flag in flags.items() for word in flag]
    for model in plan.models:
        words += ["--model", model]
    if plan.security is not None:
        words += plan.security.node_flags(name)
    command = (*plan.node_command, *words)
    program = Program(name, command, ready_timeout_s=_NODE_READY_S, stop_grace_s=_NODE_GRACE_S)
    return plan.hosts.place(name, program)


def _delay_program(node: str, rtt_ms: float) -> Program:
    flags = ("--listen", str(_FREE_PORT), "--rtt-ms", f"{rtt_ms:g}")
    return Program(f"delay-{node}", (*_DELAY_COMMAND, *flags), ready_timeout_s=20.0)


def _running_node(child: Child, tier: Tier) -> RunningNode:
    facts = child.facts
    models = tuple(filter(None, facts.get("models", "").split(",")))
    address = Address.parse(facts["grpc"])
    return RunningNode(child.name, tier, address, facts.get("metrics", ""), models, child)
