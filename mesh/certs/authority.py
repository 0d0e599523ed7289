"""The authority: signs certificates. Keys and times in, PEM out; no files."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.certs.errors import LifetimeRefused
from mesh.certs.identity import Identity, check_trust_domain

_CA_LIFETIME = timedelta(days=365)
_SKEW = timedelta(minutes=5)  # an agent's clock may be that far behind


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of one trust domain.

    Attributes:
        trust_domain: what its identities begin with.
        certificate: its own.
        key: signs; never leaves the machine that issues.
    """

    trust_domain: str
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, trust_domain: str, now: datetime) -> Authority:
        """Returns a new authority with a new key, valid for a year.

        Raises:
            NameRefused: the trust domain cannot stand in an identity.
        """
        check_trust_domain(trust_domain)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"Starling development CA of {trust_domain}"[:64])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _begin(name, name, key.public_key(), now - _SKEW, now + _CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .add_extension(_uris(f"spiffe://{trust_domain}"), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(trust_domain, certificate, key)

    def issue(self, holder: Identity, hosts: Sequence[str], now: datetime, lifetime: timedelta) -> Signed:
        """Returns a certificate with a new key for a holder.

        Args:
            holder: becomes the only URI among the alternative names.
            hosts: names and addresses under which a server is reached.
            now: valid from a little before.
            lifetime: valid until then, and never longer than the authority.

        Raises:
            LifetimeRefused: it would be over before it begins, or outlive the authority.
        """
        end, last = now + lifetime, self.certificate.not_valid_after_utc
        if not now < end <= last:
            raise LifetimeRefused(
                f"a certificate for {holder} cannot end at {end:%Y-%m-%d %H:%M}: expected after {now:%Y-%m-%d %H:%M} "
                f"and not after its authority, which ends at {last:%Y-%m-%d %H:%M}; give fewer --days"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if holder.role.serves:
            uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
        issuer_key = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        certificate = (
            _begin(_name(str(holder)[:64]), self.certificate.subject, key.public_key(), now - _SKEW, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
            .add_extension(_uris(holder.uri(self.trust_domain), hosts), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Signed(certificate.public_bytes(serialization.Encoding.PEM), encode_key(key))


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Returns a private key as unencrypted PKCS #8 PEM; only ever written to files of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _begin(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _uris(uri: str, hosts: Sequence[str] = ()) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)]
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)
