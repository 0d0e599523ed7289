"""TLS of the control plane's own port: its certificate, renewed while it serves, and whom it believes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc

from mesh.certs.identity import Role
from mesh.control.errors import NoControlCertificate
from services.host.certificates import CertificateFiles, CertificateFollower, Certificates

_FOLLOW_EVERY_S = 1.0


class ServerTls:
    """Credentials of a server whose clients prove who they are; every handshake gets the certificates of then.

    Attributes:
        trust_domain: of our own certificate; that of a caller has to be the same.
        follower: what is in use, and when it ends.

    Args:
        folder: with `tls.crt`, `tls.key` and `ca.crt`.

    Raises:
        CertificateRefused: the files cannot be used.
        NoControlCertificate: they are those of somebody else.
    """

    def __init__(self, folder: Path) -> None:
        self.follower = CertificateFollower(CertificateFiles(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))
        self.trust_domain = _read_trust_domain(folder, self.follower.current.uri)
        self._lock = threading.Lock()  # handshakes are in threads of gRPC
        self._following: grpc.ServerCertificateConfiguration | None = None

    def build_credentials(self) -> grpc.ServerCredentials:
        """Returns what a port is opened with."""
        # The stubs do not know that None means no change.
        fetch: Any = self._take
        return grpc.dynamic_ssl_server_credentials(_configure(self.follower.current), fetch, True)

    async def run(self) -> None:
        """Follows the files until cancelled."""
        while True:
            await asyncio.sleep(_FOLLOW_EVERY_S)
            if await asyncio.to_thread(self.follower.refresh):
                following = _configure(self.follower.current)
                with self._lock:
                    self._following = following

    def _take(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what is new since the last handshake, for gRPC."""
        with self._lock:
            following, self._following = self._following, None
        return following

    def __repr__(self) -> str:
        """Returns the trust domain and the certificate."""
        return f"<ServerTls {self.trust_domain} {self.follower!r}>"


def _configure(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.certificate)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)


def _read_trust_domain(folder: Path, uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    trust_domain, _, holder = rest.partition("/")
    if scheme != "spiffe" or not trust_domain or not holder.startswith(f"{Role.CONTROL}/"):
        raise NoControlCertificate(folder, uri)
    return trust_domain
