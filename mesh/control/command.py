"""Shows the mesh as the control plane sees it, or takes a node out of it.

`starling mesh status` is a live table on a terminal and prints once elsewhere; `starling mesh drain NODE` sends
nothing new to a node, waits until it has finished and left, and loses no request.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import grpc
from rich.console import Console
from rich.live import Live
from starling.mesh.v1 import (
    control_service_pb2,
    control_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
)

from mesh.control.table import build_status
from mesh.errors import MeshError
from services.client import Tls
from services.host import Address, above, existing_dir, reachable_port, read_settings, setting

_TIMEOUT_S = 5.0
_POLL_S = 0.2


class Action(StrEnum):
    """What to do."""

    STATUS = "status"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What `starling mesh` needs to know."""

    env_prefix: ClassVar[str] = "MESH"

    action: Action = setting(Action.STATUS, help="what to do; also the first word of the command line")
    node: str = setting("", help="node to drain; also the second word", metavar="NAME")
    control: Address = setting(
        Address("127.0.0.1", 18000), help="the control plane", metavar="HOST:PORT", check=reachable_port
    )
    certs: Path | None = setting(
        None,
        help="folder with tls.crt, tls.key and ca.crt of an admin, for a control plane that asks who calls",
        metavar="DIR",
        check=existing_dir,
    )
    once: bool = setting(False, help="print the status once, also on a terminal")
    every_s: float = setting(0.5, help="time between two looks, seconds", check=above(0))
    wait_s: float = setting(60.0, help="time a draining node gets to leave, seconds", check=above(0))

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts."""
        if self.action is Action.DRAIN and not self.node:
            yield "drain needs a node: `starling mesh drain NAME`"


class ControlUnreachable(MeshError):
    """The control plane does not answer."""

    status = "UNAVAILABLE"
    reason = "CONTROL_UNREACHABLE"

    def __init__(self, control: str, why: str) -> None:
        self.control = control
        super().__init__(
            f"control plane {control}: {why}; `starling up` prints its address, --control HOST:PORT names it, "
            "--certs DIR with an admin's certificate opens one that asks who calls"
        )


def main(argv: Sequence[str]) -> int:
    """Runs one action; returns 0, or 1 when a drained node did not leave in time."""
    words, rest = [], list(argv)
    for flag in ("--action", "--node"):
        if rest and not rest[0].startswith("-"):
            words += [flag, rest.pop(0)]
    settings = read_settings(MeshSettings, [*words, *rest], os.environ, prog="starling mesh", description=__doc__ or "")
    console = Console(soft_wrap=not sys.stdout.isatty())
    with _connect(settings) as channel:
        try:
            if settings.action is Action.DRAIN:
                return _drain(channel, settings, console)
            _show(channel, settings, console)
        except grpc.RpcError as error:
            raise ControlUnreachable(str(settings.control), _explain(error)) from error
        except KeyboardInterrupt:
            return 0
    return 0


def _connect(settings: MeshSettings) -> grpc.Channel:
    target, folder = str(settings.control), settings.certs
    if folder is None:
        return grpc.insecure_channel(target)
    tls = Tls(ca=folder / "ca.crt", cert=folder / "tls.crt", key=folder / "tls.key")
    return grpc.secure_channel(target, tls.read_credentials())


def _show(channel: grpc.Channel, settings: MeshSettings, console: Console) -> None:
    stub = control_service_pb2_grpc.ControlServiceStub(channel)
    request = control_service_pb2.GetMeshRequest()
    if settings.once or not console.is_terminal:
        console.print(build_status(stub.GetMesh(request, timeout=_TIMEOUT_S)))
        return
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            live.update(build_status(stub.GetMesh(request, timeout=_TIMEOUT_S)), refresh=True)
            time.sleep(settings.every_s)


def _drain(channel: grpc.Channel, settings: MeshSettings, console: Console) -> int:
    stub = node_service_pb2_grpc.NodeServiceStub(channel)
    stub.DrainNode(node_service_pb2.DrainNodeRequest(name=settings.node, cause="starling mesh drain"))
    console.print(f"{settings.node} drains", highlight=False)
    end_s = time.monotonic() + settings.wait_s
    while time.monotonic() < end_s:
        mesh = control_service_pb2_grpc.ControlServiceStub(channel).GetMesh(
            control_service_pb2.GetMeshRequest(), timeout=_TIMEOUT_S
        )
        if settings.node not in {node.name for node in mesh.nodes}:
            console.print(f"{settings.node} has left", highlight=False)
            return 0
        time.sleep(_POLL_S)
    console.print(f"{settings.node} has not left after {settings.wait_s:g} s", highlight=False)
    return 1


def _explain(error: grpc.RpcError) -> str:
    code = getattr(error, "code", lambda: None)()
    details = getattr(error, "details", lambda: "")()
    return f"{code.name if code is not None else 'no status'}: {details}"
