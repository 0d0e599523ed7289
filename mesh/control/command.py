"""Shows the mesh as the control plane sees it, takes a node out of it, or divides the calls for a model.

`starling mesh status` is a live table on a terminal and prints once elsewhere; `starling mesh drain NODE` sends
nothing new to a node, waits until it has finished and left, and loses no request.
`starling mesh route MODEL --label stable=1@95 --label canary=2@5` divides the calls that name no version among
versions, `starling mesh unroute MODEL` ends that.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import grpc
from rich.console import Console
from rich.live import Live
from starling.mesh.v1 import (
    control_service_pb2,
    control_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
)

from mesh.control.settings import DEFAULT_ADDRESS
from mesh.control.table import build_route, build_status
from mesh.errors import MeshError
from services.client import Tls
from services.client.status import trim_cause
from services.host import Address, above, existing_dir, name_words, reachable_port, read_settings, readable_by, setting

_TIMEOUT_S = 5.0
_POLL_S = 0.2
_EXAMPLES = (
    "starling mesh status",
    "starling mesh drain edge-1",
    "starling mesh route nanodet --label stable=1@95 --label canary=2@5",
    "starling mesh unroute nanodet",
    "starling mesh status --control 10.0.0.2:18000 --certs out/certs/admin/admin",
)


def parse_label(text: str) -> Any:
    """Returns the `VersionLabel` that `NAME=VERSION[@PERCENT]` spells.

    Raises:
        ValueError: it spells none.

    >>> parse_label("canary=2@5").percent
    5.0
    """
    name, equals, rest = text.partition("=")
    version, at, percent = rest.partition("@")
    if not (name and equals and version.isdecimal() and (percent or not at)):
        raise ValueError(f"{text!r} is no label; expected NAME=VERSION or NAME=VERSION@PERCENT, such as canary=2@5")
    return control_service_pb2.VersionLabel(name=name, version=int(version), percent=float(percent or 0))


class Action(StrEnum):
    """What to do."""

    STATUS = "status"
    DRAIN = "drain"
    ROUTE = "route"
    UNROUTE = "unroute"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What `starling mesh` needs to know."""

    env_prefix: ClassVar[str] = "MESH"

    action: Action = setting(Action.STATUS, help="what to do; also the first word of the command line")
    name: str = setting("", help="node to drain, or model to route; also the second word", metavar="NAME")
    label: tuple[str, ...] = setting(
        (),
        help="label of a version of the model, repeatable; PERCENT of the calls that name no version get it",
        metavar="NAME=VERSION[@PERCENT]",
        check=readable_by(parse_label, "NAME=VERSION[@PERCENT]"),
    )
    control: Address = setting(DEFAULT_ADDRESS, help="the control plane", metavar="HOST:PORT", check=reachable_port)
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
        if self.action is not Action.STATUS and not self.name:
            yield f"{self.action} needs a name: `starling mesh {self.action} NAME`"
        if (self.action is Action.ROUTE) != bool(self.label):
            yield "labels belong to a route: `starling mesh route MODEL --label stable=1@95 --label canary=2@5`"


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


class ControlRefused(MeshError):
    """The control plane answers, and will not do it."""

    reason = "CONTROL_REFUSED"

    def __init__(self, control: str, why: str) -> None:
        self.control = control
        super().__init__(f"control plane {control}: {why}")


# What the control plane itself says; any other status says that it was not reached, or that it is no control plane.
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)


def main(argv: Sequence[str]) -> int:
    """Runs one action; returns 0, or 1 when a drained node did not leave in time.

    Raises:
        SettingsError: a flag or a variable is wrong.
        ControlUnreachable, ControlRefused: says which control plane and why.
    """
    words = name_words(argv, ("--action", "--name"))
    settings = read_settings(
        MeshSettings, words, os.environ, prog="starling mesh", description=__doc__ or "", examples=_EXAMPLES
    )
    console = Console(soft_wrap=not sys.stdout.isatty())
    with _connect(settings) as channel:
        try:
            match settings.action:
                case Action.STATUS:
                    _show(channel, settings, console)
                case Action.DRAIN:
                    return _drain(channel, settings, console)
                case Action.ROUTE:
                    _set_route(channel, settings, console)
                case Action.UNROUTE:
                    _delete_route(channel, settings, console)
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            failure = ControlRefused if code in _REFUSALS else ControlUnreachable
            raise failure(str(settings.control), _explain(error)) from error
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


def _set_route(channel: grpc.Channel, settings: MeshSettings, console: Console) -> None:
    stub = control_service_pb2_grpc.ControlServiceStub(channel)
    labels = [parse_label(text) for text in settings.label]
    route = control_service_pb2.ModelRoute(model_name=settings.name, labels=labels)
    response = stub.SetModelRoute(control_service_pb2.SetModelRouteRequest(route=route), timeout=_TIMEOUT_S)
    console.print(build_route(route), highlight=False)
    mesh = stub.GetMesh(control_service_pb2.GetMeshRequest(), timeout=_TIMEOUT_S)
    for text in find_unserved(route, mesh):
        console.print(f"[yellow]![/] {text}", highlight=False)
    if not response.kept:
        console.print("until the control plane ends; `starling control --routes FILE` keeps it", highlight=False)


def find_unserved(route: Any, mesh: Any) -> list[str]:
    """Returns what no node can answer of a route, one sentence for each such version."""
    ready = {one.version for node in mesh.nodes for one in node.models if one.name == route.model_name and one.ready}
    others = "; its share goes to the other labels" if ready & {label.version for label in route.labels} else ""
    return [
        f"no node has {route.model_name}:{label.version} ready; until one has, calls for label {label.name} are refused"
        f"{others if label.percent else ''}"
        for label in route.labels
        if label.version not in ready
    ]


def _delete_route(channel: grpc.Channel, settings: MeshSettings, console: Console) -> None:
    stub = control_service_pb2_grpc.ControlServiceStub(channel)
    stub.DeleteModelRoute(control_service_pb2.DeleteModelRouteRequest(model_name=settings.name), timeout=_TIMEOUT_S)
    console.print(f"{settings.name} has no route any more", highlight=False)


def _drain(channel: grpc.Channel, settings: MeshSettings, console: Console) -> int:
    stub = node_service_pb2_grpc.NodeServiceStub(channel)
    request = node_service_pb2.DrainNodeRequest(name=settings.name, cause="starling mesh drain")
    stub.DrainNode(request, timeout=_TIMEOUT_S)
    console.print(f"{settings.name} drains", highlight=False)
    end_s = time.monotonic() + settings.wait_s
    while time.monotonic() < end_s:
        mesh = control_service_pb2_grpc.ControlServiceStub(channel).GetMesh(
            control_service_pb2.GetMeshRequest(), timeout=_TIMEOUT_S
        )
        if settings.name not in {node.name for node in mesh.nodes}:
            console.print(f"{settings.name} has left", highlight=False)
            return 0
        time.sleep(_POLL_S)
    console.print(f"{settings.name} has not left after {settings.wait_s:g} s", highlight=False)
    return 1


def _explain(error: grpc.RpcError) -> str:
    code = getattr(error, "code", lambda: None)()
    details = getattr(error, "details", lambda: "")()
    return f"{code.name if code is not None else 'no status'}: {trim_cause(details or '')}"
