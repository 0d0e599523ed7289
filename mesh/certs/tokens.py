"""Tokens: which tenant calls and what it may do, as signed JWTs, and the keys that check them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.certs.errors import LifetimeRefused, NameRefused

ISSUER = "starling-dev"
AUDIENCE = "starling"
ALGORITHM = "ES256"

LIFETIME_MAX = timedelta(days=30)
_TENANT_BYTES_MAX = 128  # as many as a node takes of the header `x-tenant`


class Scope(StrEnum):
    """What a token allows."""

    INFER = "infer"
    ADMIN = "admin"
    FLEET = "fleet"


def build_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Returns a P-256 public key as a JSON web key, named by its RFC 7638 thumbprint."""
    numbers = key.public_numbers()
    members = {"crv": "P-256", "kty": "EC", "x": _encode(numbers.x), "y": _encode(numbers.y)}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()
    return {**members, "alg": ALGORITHM, "use": "sig", "kid": thumbprint}


def build_jwks(keys: Sequence[Mapping[str, str]]) -> bytes:
    """Returns a JSON web key set; the first key signs, the others still check what they have signed."""
    return (json.dumps({"keys": [dict(key) for key in keys]}, indent=1) + "\n").encode()


def sign_token(
    key: ec.EllipticCurvePrivateKey,
    *,
    subject: str,
    tenant: str,
    scopes: Sequence[Scope],
    now: datetime,
    lifetime: timedelta,
) -> str:
    """Returns a signed token.

    Args:
        key: its public half has to be in the gateway's key set.
        subject: who it was made for; shows up in logs.
        tenant: becomes the header `x-tenant`, which decides about shares and limits.
        scopes: what it allows, at least one.
        now: issued at.
        lifetime: at most 30 days, because a signed token cannot be taken back.

    Raises:
        NameRefused: the tenant cannot stand in a header.
        LifetimeRefused: the lifetime is not between 0 and 30 days.
    """
    if not (tenant.isascii() and tenant.isprintable() and tenant == tenant.strip() and tenant):
        raise NameRefused(f"tenant {tenant!r} cannot stand in a header; expected printable ASCII, not empty")
    if len(tenant) > _TENANT_BYTES_MAX:
        raise NameRefused(f"tenant has {len(tenant)} characters; expected at most {_TENANT_BYTES_MAX}")
    if not timedelta(0) < lifetime <= LIFETIME_MAX:
        raise LifetimeRefused(f"a token cannot live {lifetime}; expected above 0 and at most {LIFETIME_MAX.days} days")
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "tenant": tenant,
        "scope": " ".join(scopes),
        "iat": int(now.timestamp()),
        "exp": int((now + lifetime).timestamp()),
    }
    return jwt.encode(claims, key, ALGORITHM, headers={"kid": build_jwk(key.public_key())["kid"]})


def _encode(coordinate: int) -> str:
    return base64.urlsafe_b64encode(coordinate.to_bytes(32, "big")).rstrip(b"=").decode()
