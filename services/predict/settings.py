"""Settings of the node process."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from services.host import Address, above, between, existing_dir, existing_file, not_empty, reachable_port, setting
from services.host.certificates import CertificateFiles

_EVERY_HOST = ("0.0.0.0", "::")  # noqa: S104  # compared with, not bound to


class Tier(StrEnum):
    """Where a node stands as seen from the agents."""

    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What `starling node` needs to know."""

    env_prefix: ClassVar[str] = "NODE"

    repository: Path = setting(
        help="folder of models, <model>/config.pbtxt and <model>/<version>/model.onnx",
        metavar="DIR",
        check=existing_dir,
    )
    require_manifests: bool = setting(
        False, help="refuse models without a manifest, whose files cannot be checked, such as those written for Triton"
    )
    name: str = setting("node", help="name of this node, echoed in every answer", check=not_empty)
    tier: Tier = setting(Tier.EDGE, help="where the node stands as seen from the agents")
    grpc: Address = setting(
        Address("127.0.0.1", 8001), help="gRPC address; port 0 picks a free one", metavar="HOST:PORT"
    )
    metrics: Address = setting(
        Address("127.0.0.1", 8002),
        help="Prometheus address; port 0 picks a free one",
        metavar="HOST:PORT",
    )
    control: Address | None = setting(
        None,
        help="control plane to register with, by TLS if --tls-cert is given; without one, nobody is told of this node",
        metavar="HOST:PORT",
        check=reachable_port,
    )
    advertise: Address | None = setting(
        None,
        help="where gateways reach --grpc, if it is not the same address",
        metavar="HOST:PORT",
        check=reachable_port,
    )
    zone: str = setting("", help="where the node stands, such as hall-2 or eu-west-1a")
    model: tuple[str, ...] = setting(
        (), help="model to load, repeatable; all of the repository when absent", metavar="NAME"
    )
    grace_s: float = setting(10.0, help="seconds that admitted requests get to finish on SIGTERM", check=above(0))
    message_mib_max: int = setting(64, help="largest gRPC message in MiB; ten 1080p frames fit", check=between(1, 1024))
    streams_max: int = setting(1024, help="concurrent calls of one connection", check=between(1, 100_000))
    tls_cert: Path | None = setting(
        None,
        help="certificate chain in PEM; with it the gRPC port speaks nothing but TLS",
        metavar="FILE",
        check=existing_file,
    )
    tls_key: Path | None = setting(
        None, help="private key of the certificate in PEM", metavar="FILE", check=existing_file
    )
    tls_client_ca: Path | None = setting(
        None,
        help="authorities in PEM; clients without a certificate of one of them are refused",
        metavar="FILE",
        check=existing_file,
    )
    tls_client: tuple[str, ...] = setting(
        (),
        help="SPIFFE id of a client, repeatable, with all below if it ends in /; everybody's when absent",
        metavar="URI",
    )

    @property
    def certificates(self) -> CertificateFiles | None:
        """The certificate files; None for plain text."""
        if self.tls_cert is None or self.tls_key is None or self.tls_client_ca is None:
            return None
        return CertificateFiles(self.tls_cert, self.tls_key, self.tls_client_ca)

    shared_memory_mib_max: int = setting(
        1024, help="shared memory that clients may register, in MiB; 0 refuses it", check=between(0, 1 << 20)
    )
    autopilot_log: Path | None = setting(
        None,
        help="file of this node alone for every decision of its autopilots, one JSON object a line",
        metavar="FILE",
    )
    autopilot_log_mib_max: int = setting(
        64, help="size in MiB at which the log becomes FILE.1 and begins anew", check=between(1, 1 << 20)
    )
    load_reports: bool = setting(
        False, help="say in the trailers of answers how busy the node is (ORCA), for callers that weigh nodes by it"
    )
    triton_statuses: bool = setting(
        False, help="answer Open Inference requests with Triton's status codes instead of our own"
    )

    def conflicts(self) -> Iterable[str]:
        """Yields what contradicts: one port cannot serve two protocols."""
        if self.grpc == self.metrics and self.grpc.port != 0:
            yield f"--grpc and --metrics are both {self.grpc}; give them different ports"
        files = {"--tls-cert": self.tls_cert, "--tls-key": self.tls_key, "--tls-client-ca": self.tls_client_ca}
        missing = [flag for flag, path in files.items() if path is None]
        if missing and (len(missing) < len(files) or self.tls_client):
            yield f"TLS needs {', '.join(files)} together; {', '.join(missing)} missing"
        for uri in self.tls_client:
            if not uri.startswith("spiffe://"):
                yield f"--tls-client {uri} is no SPIFFE id; expected for instance spiffe://starling/gateway/"
        if self.control is not None and self.advertise is None and self.grpc.host in _EVERY_HOST:
            yield f"--grpc {self.grpc} is no address that gateways can call; say with --advertise how they reach it"
