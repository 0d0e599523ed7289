"""The folder of certificates: the authority, one folder per holder, and the keys that sign tokens.

certs/
  ca/ca.crt, ca.key, jwt.key       only where certificates and tokens are issued
  trust/ca.crt, jwks.json          what everybody may know
  gateway/gateway/tls.crt, tls.key, ca.crt, jwks.json
  node/edge-1/tls.crt, tls.key, ca.crt
  agent/drone-7/...  admin/admin/...  control/control/...
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.certs.authority import Authority, encode_key
from mesh.certs.errors import AuthorityExists, AuthorityMissing, KeyUnreadable
from mesh.certs.folder import make_private, publish, replace_private
from mesh.certs.identity import Identity, Role
from mesh.certs.tokens import Scope, build_jwk, build_jwks, sign_token

LIFETIME = timedelta(days=30)
"""Certificates live so long unless told otherwise: a leaked development key is not a leak for ever."""

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_SIGNING_KEYS_MAX = 2  # the present one, and the one before, until the tokens that it signed are over


@dataclass(frozen=True, slots=True)
class Held:
    """One certificate in the folder, without its key.

    Attributes:
        name: `ca` or `ROLE/NAME`.
        uri: its SPIFFE id; empty when it has none.
        hosts: names and addresses that it proves.
        start, end: validity.
        serial: serial number in hexadecimal.
        path: its file.
    """

    name: str
    uri: str
    hosts: tuple[str, ...]
    start: datetime
    end: datetime
    serial: str
    path: Path


class CertStore:
    """Issues and renews; every file is readable by its owner only and replaced in one step."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ca = root / "ca"

    @property
    def exists(self) -> bool:
        """Whether there is an authority."""
        return (self._ca / "ca.crt").exists()

    def create(self, trust_domain: str, now: datetime, *, replace: bool = False) -> None:
        """Makes an authority and a key that signs tokens.

        Args:
            trust_domain: what its identities begin with.
            now: start of its validity.
            replace: when there is one, make a new one all the same and issue every certificate anew;
                tokens that were signed before stop to count.

        Raises:
            AuthorityExists: there is one, and `replace` is False.
            NameRefused: the trust domain cannot stand in an identity.
        """
        if self.exists and not replace:
            raise AuthorityExists(self._ca / "ca.crt")
        held = self.list() if self.exists else []
        authority = Authority.create(trust_domain, now)
        signer = ec.generate_private_key(ec.SECP256R1())
        self._publish_authority(authority, signer, [build_jwk(signer.public_key())], now)
        for one in held:
            if one.name != "ca":
                self.issue(Identity.parse(one.name), now, hosts=one.hosts)

    def issue(
        self, holder: Identity, now: datetime, *, hosts: Sequence[str] = (), lifetime: timedelta = LIFETIME
    ) -> Path:
        """Returns the folder with a holder's new certificate, key and what it needs to check others.

        Raises:
            AuthorityMissing: there is no authority.
            LifetimeRefused: it would outlive the authority.
        """
        authority, _ = self._read_authority()
        signed = authority.issue(holder, hosts, now, lifetime)
        files = {"tls.crt": signed.certificate, "tls.key": signed.key, "ca.crt": self._read(self._ca / "ca.crt")}
        if holder.role is Role.GATEWAY:
            files["jwks.json"] = self._read(self._ca / "jwks.json")
        folder = self.folder(holder)
        publish(folder, files, now)
        return folder

    def folder(self, holder: Identity) -> Path:
        """Returns where a holder's files are."""
        return self.root / holder.role / holder.name

    def rotate(self, now: datetime, *, only: Sequence[Identity] = (), lifetime: timedelta = LIFETIME) -> list[Identity]:
        """Returns the holders whose certificates and keys were replaced: those given, or all.

        Raises:
            AuthorityMissing: there is no authority.
            KeyUnreadable: a certificate that is there cannot be read.
        """
        held = {Identity.parse(one.name): one for one in self.list() if one.name != "ca"}
        chosen = list(only) or sorted(held)
        for holder in chosen:
            if holder not in held:
                raise KeyUnreadable(self.folder(holder) / "tls.crt", "there is none")
            self.issue(holder, now, hosts=held[holder].hosts, lifetime=lifetime)
        return chosen

    def rotate_signing_key(self, now: datetime) -> None:
        """Makes a new key that signs tokens; those of the one before are still accepted."""
        authority, _ = self._read_authority()
        signer = ec.generate_private_key(ec.SECP256R1())
        keys = [build_jwk(signer.public_key()), *json.loads(self._read(self._ca / "jwks.json"))["keys"]]
        self._publish_authority(authority, signer, keys[:_SIGNING_KEYS_MAX], now)
        jwks = self._read(self._ca / "jwks.json")
        for one in self.list():
            if one.name.startswith(f"{Role.GATEWAY}/"):
                folder = self.folder(Identity.parse(one.name))
                files = {name: self._read(folder / name) for name in ("tls.crt", "tls.key", "ca.crt")}
                publish(folder, {**files, "jwks.json": jwks}, now)

    def sign_token(
        self, *, subject: str, tenant: str, scopes: Sequence[Scope], now: datetime, lifetime: timedelta
    ) -> str:
        """Returns a token; see `tokens.sign_token`.

        Raises:
            AuthorityMissing: there is no key to sign with.
        """
        _, signer = self._read_authority()
        return sign_token(signer, subject=subject, tenant=tenant, scopes=scopes, now=now, lifetime=lifetime)

    def list(self) -> list[Held]:
        """Returns every certificate, the authority first, then by role and name.

        Raises:
            AuthorityMissing: there is no authority.
            KeyUnreadable: a file is no certificate.
        """
        held = [self._describe("ca", self._ca / "ca.crt")]
        for role in Role:
            paths = sorted((self.root / role).glob("*/tls.crt"))
            held += [self._describe(f"{role}/{path.parent.name}", path) for path in paths]
        return held

    @property
    def trust_domain(self) -> str:
        """What its identities begin with."""
        return self._describe("ca", self._ca / "ca.crt").uri.removeprefix("spiffe://")

    def _publish_authority(
        self,
        authority: Authority,
        signer: ec.EllipticCurvePrivateKey,
        keys: Sequence[Mapping[str, str]],
        now: datetime,
    ) -> None:
        certificate = authority.certificate.public_bytes(serialization.Encoding.PEM)
        public = {"ca.crt": certificate, "jwks.json": build_jwks(keys)}
        private = {"ca.key": encode_key(authority.key), "jwt.key": encode_key(signer)}
        publish(self._ca, {**public, **private}, now)
        publish(self.root / "trust", public, now)

    def _read_authority(self) -> tuple[Authority, ec.EllipticCurvePrivateKey]:
        certificate = self._read_certificate(self._ca / "ca.crt")
        key, signer = (self._read_key(self._ca / name) for name in ("ca.key", "jwt.key"))
        return Authority(self.trust_domain, certificate, key), signer

    def _describe(self, name: str, path: Path) -> Held:
        certificate = self._read_certificate(path)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = x509.SubjectAlternativeName([])
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
        return Held(
            name,
            uris[0] if uris else "",
            tuple(hosts),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            f"{certificate.serial_number:x}",
            path,
        )

    def _read_certificate(self, path: Path) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read(path))
        except ValueError as error:
            raise KeyUnreadable(path, "it is no PEM certificate") from error

    def _read_key(self, path: Path) -> ec.EllipticCurvePrivateKey:
        try:
            key = serialization.load_pem_private_key(self._read(path), None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyUnreadable(path, "it is no unencrypted PEM key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyUnreadable(path, "it is no elliptic-curve key")
        return key

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            if path.parent == self._ca:
                raise AuthorityMissing(self._ca / "ca.crt") from error
            raise KeyUnreadable(path, "it is not there") from error
        except OSError as error:
            raise KeyUnreadable(path, error.strerror or str(error)) from error


def write_token(path: Path, token: str) -> None:
    """Writes a token to a file that only its owner can read."""
    make_private(path.parent)
    replace_private(path, token.encode() + b"\n")
