"""Following certificate files while serving: the native server only ever sees what was checked."""

from __future__ import annotations

import os
from datetime import datetime

from services.host.certificates import CertificateFiles, CertificateFollower, Certificates


class FollowedCertificates:
    """Keeps the last good contents of certificate files, also where the native client of the control plane reads them.

    gRPC polls files and takes what it finds, also half a replacement. So it gets files in memory that change only
    from one good state to another, each in one step (`dup2`), and that are gone with the process, however it ends.
    Used by one thread.

    Raises:
        CertificateRefused: the files cannot be used.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._follower = CertificateFollower(files)
        self._identity, self._client_ca = (os.memfd_create(name) for name in ("identity", "client-ca"))
        self._show()

    @property
    def identity_file(self) -> str:
        """File with key and certificate chain, one after the other, so that they cannot disagree."""
        return f"/proc/self/fd/{self._identity}"

    @property
    def client_ca_file(self) -> str:
        """File with the authorities of clients, and of the control plane."""
        return f"/proc/self/fd/{self._client_ca}"

    @property
    def uri(self) -> str:
        """The SPIFFE id that the certificate proves; empty when it has none."""
        return self._follower.current.uri

    @property
    def current(self) -> Certificates:
        """What is in use."""
        return self._follower.current

    @property
    def end(self) -> datetime:
        """When the first of the certificates in use ends."""
        return self._follower.current.end

    @property
    def failures(self) -> int:
        """How often the files became ones that cannot be used."""
        return self._follower.failures

    def refresh(self) -> bool:
        """Takes over what has changed in the files; returns whether it did. Keeps what it has when they are bad."""
        if not self._follower.refresh():
            return False
        self._show()
        return True

    def close(self) -> None:
        """Frees the memory; the server has stopped."""
        os.close(self._identity)
        os.close(self._client_ca)

    def _show(self) -> None:
        current = self._follower.current
        _replace(self._identity, current.key + b"\n" + current.certificate)
        _replace(self._client_ca, current.client_ca)


def _replace(descriptor: int, content: bytes) -> None:
    """Puts another file in memory behind a descriptor, so that whoever opens its path sees one or the other."""
    following = os.memfd_create("following")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(following, view) :]
        os.dup2(following, descriptor, inheritable=False)
    finally:
        os.close(following)
