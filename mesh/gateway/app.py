"""Runs a gateway here, for agents, that takes everything but its own address from a control plane elsewhere."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from mesh.child import Child
from mesh.errors import ChildFailed, NotTheGateway
from mesh.gateway.bootstrap import GatewaySite, bootstrap
from mesh.gateway.envoy import check_listen, envoy_program, find_envoy
from mesh.gateway.security import SecurityPlan, build_secrets, secure_control
from mesh.gateway.typed import Resource
from mesh.interrupt import Interrupted, unless, watch_interrupts
from mesh.program import Program
from mesh.supervisor import Supervisor
from services.host import Address, existing_dir, reachable_port, read_settings, setting
from services.host.certificates import CertificateFiles, read_certificates

_EXAMPLES = ("starling gateway --control 10.0.0.2:18000 --listen 0.0.0.0:50051 --name hall-2",)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """What `starling gateway` needs to know."""

    env_prefix: ClassVar[str] = "GATEWAY"

    control: Address = setting(
        Address("127.0.0.1", 18000), help="the control plane", metavar="HOST:PORT", check=reachable_port
    )
    listen: Address = setting(Address("127.0.0.1", 50051), help="where agents call; port 0 takes a free one")
    name: str = setting(
        "gateway", help="unique in the mesh; with --certs the name in the certificate, or that and /MORE"
    )
    viewpoint: str = setting(
        "", help="the place where it stands, if other gateways stand there too: they share what they see"
    )
    certs: Path | None = setting(
        None,
        help="folder with tls.crt, tls.key and ca.crt, where the control plane's --security says `certificates`; plain "
        "text to the control plane without it",
        metavar="DIR",
        check=existing_dir,
    )
    secrets: Path | None = setting(
        None, help="folder that --security says as `secrets`; files for Envoy are written there", metavar="DIR"
    )
    out: Path | None = setting(
        None,
        help="folder for Envoy's configuration and log, made if missing; a temporary one without it",
        metavar="DIR",
    )
    show: bool = setting(False, help="print what Envoy would start from, and end: to run Envoy by other means")

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts."""
        if (self.certs is None) != (self.secrets is None):
            yield "--certs and --secrets go together: the control plane's --security names both"


def main(argv: Sequence[str]) -> int:
    """Runs the gateway until SIGTERM or Ctrl-C; returns 0.

    Raises:
        SettingsError: a flag or a variable is wrong.
        CertificateRefused: the certificates cannot be used.
        MeshError: they are somebody else's, or Envoy is missing, cannot listen, did not start or broke; says why.
    """
    settings = read_settings(
        GatewaySettings,
        argv,
        os.environ,
        prog="starling gateway",
        description=f"{__doc__} Prints one line beginning with `ready` once the control plane has told it where to "
        "send calls. While the control plane is away, it goes on with what it knows.",
        examples=_EXAMPLES,
    )
    start = build_start(settings)
    if settings.show:
        print(json.dumps(start, indent=1))
        return 0
    with ExitStack() as stack:
        folder = settings.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="starling-gateway-")))
        folder.mkdir(parents=True, exist_ok=True)
        check_listen(settings.listen, "--listen")
        # It cannot serve before it is told whom; the control plane may come later.
        program = replace(envoy_program(find_envoy(), start, folder), ready_timeout_s=math.inf)
        print(f"waiting for the control plane at {settings.control}", file=sys.stderr, flush=True)
        asyncio.run(_serve(program))
    return 0


def build_start(settings: GatewaySettings) -> Resource:
    """Returns what Envoy starts from; with certificates, the files that it follows are written too.

    Raises:
        CertificateRefused: they cannot be used.
        NotTheGateway: they are somebody else's.
    """
    start = bootstrap(GatewaySite(settings.name, settings.listen, settings.control, settings.viewpoint))
    if settings.certs is None or settings.secrets is None:
        return start
    certs, secrets = settings.certs.absolute(), settings.secrets.absolute()
    files = CertificateFiles(certs / "tls.crt", certs / "tls.key", certs / "ca.crt")
    uri = read_certificates(files, datetime.now(UTC)).uri
    trust_domain, _, holder = uri.removeprefix("spiffe://").partition("/")
    name = settings.name.partition("/")[0]
    if holder != f"gateway/{name}":
        raise NotTheGateway(certs, uri, name)
    # Who may call, and how much, comes from the control plane.
    plan = SecurityPlan(certificates=certs, secrets=secrets, keys="", trust_domain=trust_domain, issuer="", audience="")
    secrets.mkdir(parents=True, exist_ok=True)
    for path, resource in build_secrets(plan).items():
        path.write_text(json.dumps(resource, indent=1) + "\n", "utf-8")
    return secure_control(start, plan)


async def _serve(program: Program) -> None:
    """Returns once it was asked to stop.

    Raises:
        MeshError: Envoy did not start, or ended.
    """
    left: asyncio.Queue[Child] = asyncio.Queue()
    async with watch_interrupts() as stop, Supervisor(left.put_nowait) as supervisor:
        try:
            (child,) = await unless(stop, supervisor.start([program]))
            print(f"ready grpc={child.facts['grpc']} admin={child.facts['admin']}", flush=True)
            ended = await unless(stop, left.get())
        except Interrupted:
            return
        raise ChildFailed(ended.name, ended.exit_code or 0, ended.stderr_tail)
