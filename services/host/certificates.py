"""Certificate files of a process that serves TLS: read together, checked, refused with a reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # 60 ms that only a process with TLS pays
    from cryptography import x509

_READS_MAX = 100
_SOON = timedelta(days=7)
_log = logging.getLogger(__name__)


class CertificateRefused(Exception):
    """Certificate files cannot be used; says which and why.

    Attributes:
        path: the file.
    """

    status = "FAILED_PRECONDITION"
    reason = "CERTIFICATE_REFUSED"

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a process finds what it proves itself with, as PEM.

    Attributes:
        certificate: its own certificate, then those between it and the authority.
        key: the private key of the first one, unencrypted.
        client_ca: authorities whose clients may connect.
    """

    certificate: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True, slots=True, repr=False)
class Certificates:
    """The contents of the files, checked against each other.

    Attributes:
        certificate, key, client_ca: PEM.
        uri: the SPIFFE id of the certificate; empty when it has none.
        end: when the first certificate of the chain, or the last of the authorities, ends.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes
    uri: str
    end: datetime


class CertificateFollower:
    """Keeps the last good contents of certificate files that may be replaced at any time. Used by one thread.

    Attributes:
        current: the contents in use.
        failures: how often the files became ones that cannot be used.

    Raises:
        CertificateRefused: the files cannot be used.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self.current = read_certificates(files, datetime.now(UTC))
        self.failures = 0
        self._refused = ""
        self._tell()

    def refresh(self) -> bool:
        """Takes over what has changed in the files; returns whether it did. Keeps what it has when they are bad."""
        try:
            found = read_certificates(self._files, datetime.now(UTC))
        except CertificateRefused as error:
            if str(error) != self._refused:
                self.failures += 1
                _log.error("keeping the certificates of before: %s", error)
            self._refused = str(error)
            return False
        self._refused = ""
        if found == self.current:
            return False
        self.current = found
        self._tell()
        return True

    def _tell(self) -> None:
        current = self.current
        _log.info("serving TLS as %s until %s", current.uri or "an unnamed host", f"{current.end:%Y-%m-%d %H:%M} UTC")
        if current.end - datetime.now(UTC) < _SOON:
            _log.warning("a certificate ends at %s", f"{current.end:%Y-%m-%d %H:%M} UTC")

    def __repr__(self) -> str:
        """Returns whose certificate it is and when it ends."""
        return f"<CertificateFollower {self.current.uri or self._files.certificate} until {self.current.end:%Y-%m-%d}>"


def read_certificates(files: CertificateFiles, now: datetime) -> Certificates:
    """Returns the contents of three files that fit together and are valid now.

    Raises:
        CertificateRefused: a file is missing or malformed, the key is another one's, or a certificate is
            not valid yet or any more.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    certificate, key, client_ca = _read_together(files)
    chain, authorities = _parse(files.certificate, certificate), _parse(files.client_ca, client_ca)
    try:
        private = serialization.load_pem_private_key(key, None)
    except Exception as error:  # ValueError, TypeError, UnsupportedAlgorithm, by the kind of damage
        why = "it has a passphrase" if isinstance(error, TypeError) else "it holds no PEM private key"
        raise CertificateRefused(files.key, f"key {files.key} cannot be used: {why}; write PKCS #8 PEM") from error
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise CertificateRefused(
            files.key,
            f"key {files.key} does not belong to certificate {files.certificate}; replace both files together",
        )
    for one in chain:
        _check_time(files.certificate, one, now)
    last = max(authorities, key=lambda one: one.not_valid_after_utc)  # a bundle may hold one that was replaced
    _check_time(files.client_ca, last, now)
    try:
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    end = min(one.not_valid_after_utc for one in (*chain, last))
    return Certificates(certificate, key, client_ca, uris[0] if uris else "", end)


def _read_together(files: CertificateFiles) -> tuple[bytes, bytes, bytes]:
    """Reads until two readings are the same, so that no file is of another replacement than the others."""
    found = _read_all(files)
    for _ in range(_READS_MAX):
        before, found = found, _read_all(files)
        if found == before:
            break
    return found


def _read_all(files: CertificateFiles) -> tuple[bytes, bytes, bytes]:
    return _read(files.certificate), _read(files.key), _read(files.client_ca)


def _read(path: Path) -> bytes:
    try:
        try:
            return path.read_bytes()
        except FileNotFoundError:  # the folder behind a link, gone with the replacement
            return path.read_bytes()
    except OSError as error:
        raise CertificateRefused(path, f"{path} cannot be read: {error.strerror}; expected a PEM file") from error


def _parse(path: Path, content: bytes) -> Sequence[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateRefused(
            path, f"{path} holds no PEM certificate; expected `-----BEGIN CERTIFICATE-----`"
        ) from error


def _check_time(path: Path, certificate: x509.Certificate, now: datetime) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        text = f"certificate {path} ended at {end:%Y-%m-%d %H:%M:%S} UTC"
        raise CertificateRefused(path, f"{text}; renew it, for instance with `starling certs rotate`")
    if now < begin:
        text = f"certificate {path} is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC, it is {now:%Y-%m-%d %H:%M:%S}"
        raise CertificateRefused(path, f"{text}; check the clock")
