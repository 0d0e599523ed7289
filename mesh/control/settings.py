"""Settings of the control plane."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mesh.control.kubernetes.slices import Service, parse_service
from mesh.endpoint import Endpoint, Tier
from mesh.gateway import Balancer
from services.host import Address, between, existing_dir, existing_file, readable_by, setting

# Where `starling control` and `starling up` listen, and `starling mesh` asks, unless told otherwise.
DEFAULT_ADDRESS = Address("127.0.0.1", 18000)


def parse_node(text: str) -> Endpoint:
    """Returns the node that `NAME=TIER@HOST:PORT` spells.

    Raises:
        ValueError: it spells none.

    >>> parse_node("edge-1=edge@10.0.0.7:8001").address
    Address(host='10.0.0.7', port=8001)
    """
    name, equals, rest = text.partition("=")
    tier, at, address = rest.partition("@")
    if not (equals and at):
        raise ValueError(f"{text!r} names no tier or no address")
    return Endpoint(name, Tier(tier), Address.parse(address))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """What `starling control` needs to know."""

    env_prefix: ClassVar[str] = "CONTROL"

    listen: Address = setting(DEFAULT_ADDRESS, help="where gateways and nodes connect; port 0 picks a free one")
    metrics: Address = setting(Address("127.0.0.1", 18001), help="Prometheus address; port 0 picks a free one")
    node: tuple[str, ...] = setting(
        (),
        help="a node that does not register itself, repeatable: NAME=TIER@HOST:PORT",
        metavar="NODE",
        check=readable_by(parse_node, "NAME=TIER@HOST:PORT with tier edge or cloud"),
    )
    kubernetes_service: tuple[str, ...] = setting(
        (),
        help="Kubernetes service whose ready endpoints are nodes, repeatable: [NAMESPACE/]NAME[=edge|cloud], "
        "in the cloud unless it says edge",
        metavar="SERVICE",
        check=readable_by(parse_service, "[NAMESPACE/]NAME[=edge|cloud]"),
    )
    kubernetes_port: str = setting("grpc", help="name of the port of these endpoints that answers gRPC", metavar="NAME")
    kubernetes_api: str = setting(
        "", help="API server, https://HOST:PORT; that of the cluster we run in when absent", metavar="URL"
    )
    kubernetes_account: Path = setting(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        help="folder with token and ca.crt for the API server, read again for every call",
        metavar="DIR",
    )
    nodes_max: int = setting(10_000, help="most nodes", check=between(1, 100_000))
    security: Path | None = setting(
        None, help="file that says who may call gateways; anybody without it", check=existing_file
    )
    certs: Path | None = setting(
        None,
        help="folder with tls.crt, tls.key and ca.crt: --listen speaks TLS only and asks who calls, nodes are "
        "called so too; plain text without it",
        metavar="DIR",
        check=existing_dir,
    )
    routes: Path | None = setting(
        None,
        help="file that keeps what `starling mesh route` sets, made if missing; it is gone with the process without it",
        metavar="FILE",
    )
    balancer: Balancer = setting(
        Balancer.LEAST_REQUEST,
        help="how gateways pick a node; client_side_weighted_round_robin, to compare, picks among all of them, "
        "whatever they have loaded",
    )
    equal_weights: bool = setting(False, help="give every node the same weight whatever was measured, to compare")

    @property
    def static_nodes(self) -> tuple[Endpoint, ...]:
        """Returns the nodes of the static list."""
        return tuple(parse_node(text) for text in self.node)

    @property
    def services(self) -> tuple[Service, ...]:
        """Returns the services whose endpoints are nodes."""
        return tuple(parse_service(text) for text in self.kubernetes_service)

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts."""
        if self.listen == self.metrics and self.listen.port != 0:
            yield f"--listen and --metrics are both {self.listen}; give them different ports"
        if self.kubernetes_api and not self.kubernetes_api.startswith(("https://", "http://")):
            yield f"--kubernetes-api {self.kubernetes_api} is no URL; expected https://HOST:PORT"
        if self.security is not None and self.certs is None:
            yield "--security needs --certs: what gateways are told must not travel, or be answered, by strangers"
        names = [endpoint.name for endpoint in self.static_nodes]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"--node {name} is given twice; names are unique"
