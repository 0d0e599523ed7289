"""A whole mesh on this machine: nodes, the delay before the far ones, and the gateway."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mesh.child import Child
from mesh.gateway import check_listen, envoy_program, find_envoy, static_bootstrap
from mesh.gateway.security import DEFAULT_RATE, Rate
from mesh.hosts import THIS_MACHINE, Hosts
from mesh.local_security import LocalSecurity, prepare_security
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.weights import PRIOR_LATENCY_MS, Endpoint, Tier, prior_weights
from services.host import Address

# -P keeps the caller's working directory off the path: a folder named `services` there is not ours.
NODE_COMMAND = (sys.executable, "-P", "-m", "services.host.cli", "node")
_DELAY_COMMAND = (sys.executable, "-P", "-m", "mesh.delay")
_FREE_PORT = Address("127.0.0.1", 0)
_NODE_READY_S = 120.0  # compiling a large model for every batch size takes its time
_NODE_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class MeshPlan:
    """What to run.

    Attributes:
        gateway: where agents call; port 0 takes a free one.
        repository: model repository of every node.
        models: models to load; empty means all of the repository.
        edges, clouds: number of nodes per tier; at least one in all.
        rtt_ms: round trip between the gateway and each cloud node.
        run_dir: directory for the gateway's files; made if missing.
        node_command: starts one node; takes the node's flags.
        certs: folder of certificates, made if missing; plain text on every connection without it.
        rate: how much each tenant may ask, with certificates only.
        security: what `start_mesh` made of `certs`.
        hosts: where to run each node, by its name, and the gateway, as `gateway`.
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
    security: LocalSecurity | None = None
    hosts: Hosts = THIS_MACHINE


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
        nodes: the nodes, edges first.
        gateway_child: Envoy's process.
        security: how to get in; None when anybody can.
    """

    gateway: Address
    admin: Address
    nodes: tuple[RunningNode, ...]
    gateway_child: Child
    security: LocalSecurity | None = None


def check_plan(plan: MeshPlan) -> Path:
    """Returns the Envoy program after checking what can be known before anything starts.

    Raises:
        EnvoyMissing: there is no gateway program.
        PortTaken, AddressUnusable: the gateway's address cannot be listened on.
    """
    envoy = find_envoy()
    if plan.hosts is THIS_MACHINE:  # other hosts are new: nobody else listens there
        check_listen(plan.gateway, "--gateway")
    return envoy


async def start_mesh(supervisor: Supervisor, plan: MeshPlan) -> LocalMesh:
    """Starts everything and returns once the gateway answers.

    Raises:
        MeshError: a part is missing, did not start or was not ready in time; says which and why.
    """
    envoy = check_plan(plan)
    plan.run_dir.mkdir(parents=True, exist_ok=True)
    if plan.certs is not None:
        plan = replace(
            plan, security=prepare_security(plan.certs, plan.run_dir, list(_tiers(plan)), datetime.now(UTC), plan.rate)
        )
    nodes = await _start_nodes(supervisor, plan)
    endpoints = await _start_delays(supervisor, plan, nodes)
    latency_ms = {**PRIOR_LATENCY_MS, Tier.CLOUD: PRIOR_LATENCY_MS[Tier.EDGE] + plan.rtt_ms}
    weights = prior_weights(endpoints, latency_ms)
    bootstrap = static_bootstrap(plan.gateway, endpoints, weights, plan.security.plan if plan.security else None)
    program = plan.hosts.place("gateway", envoy_program(envoy, bootstrap, plan.run_dir))
    (gateway,) = await supervisor.start([program])
    facts = gateway.facts
    return LocalMesh(Address.parse(facts["grpc"]), Address.parse(facts["admin"]), nodes, gateway, plan.security)


async def _start_nodes(supervisor: Supervisor, plan: MeshPlan) -> tuple[RunningNode, ...]:
    tiers = _tiers(plan)
    programs = [_node_program(plan, name, tier) for name, tier in tiers.items()]
    children = await supervisor.start(programs)
    return tuple(_running_node(child, tiers[child.name]) for child in children)


async def _start_delays(supervisor: Supervisor, plan: MeshPlan, nodes: tuple[RunningNode, ...]) -> list[Endpoint]:
    """Returns where the gateway reaches each node: near ones directly, far ones through a delay."""
    far = [node for node in nodes if node.tier is Tier.CLOUD and plan.rtt_ms > 0 and not plan.hosts.has_links]
    delays = await supervisor.start(_delay_program(node, plan.rtt_ms) for node in far)
    reached_at: Mapping[str, Address] = {
        node.name: Address.parse(delay.facts["listen"]) for node, delay in zip(far, delays, strict=True)
    }
    return [Endpoint(n.name, n.tier, reached_at.get(n.name, n.grpc)) for n in nodes]


def _tiers(plan: MeshPlan) -> dict[str, Tier]:
    tiers = {f"{Tier.EDGE}-{n + 1}": Tier.EDGE for n in range(plan.edges)}
    return tiers | {f"{Tier.CLOUD}-{n + 1}": Tier.CLOUD for n in range(plan.clouds)}


def _node_program(plan: MeshPlan, name: str, tier: Tier) -> Program:
    listen = str(Address(plan.hosts.get_address(name), 0))
    flags = {
        "--repository": str(plan.repository),
        "--name": name,
        "--tier": str(tier),
        "--grpc": listen,
        "--metrics": listen,
    }
    words = [word for flag in flags.items() for word in flag]
    for model in plan.models:
        words += ["--model", model]
    if plan.security is not None:
        words += plan.security.node_flags(name)
    command = (*plan.node_command, *words)
    program = Program(name, command, ready_timeout_s=_NODE_READY_S, stop_grace_s=_NODE_GRACE_S)
    return plan.hosts.place(name, program)


def _delay_program(node: RunningNode, rtt_ms: float) -> Program:
    flags = ("--listen", str(_FREE_PORT), "--target", str(node.grpc), "--rtt-ms", f"{rtt_ms:g}")
    return Program(f"delay-{node.name}", (*_DELAY_COMMAND, *flags), ready_timeout_s=20.0)


def _running_node(child: Child, tier: Tier) -> RunningNode:
    facts = child.facts
    models = tuple(filter(None, facts.get("models", "").split(",")))
    address = Address.parse(facts["grpc"])
    return RunningNode(child.name, tier, address, facts.get("metrics", ""), models, child)
