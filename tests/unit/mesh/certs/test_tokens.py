"""Tokens carry what the gateway checks; their keys can be replaced without refusing anybody."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from mesh.certs import AUDIENCE, ISSUER, CertStore, Identity, NameRefused, Role, Scope
from mesh.certs.errors import LifetimeRefused

NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> CertStore:
    store = CertStore(tmp_path)
    store.create("starling", NOW)
    return store


def sign(store: CertStore, tenant: str = "acme", lifetime: timedelta = HOUR) -> str:
    return store.sign_token(subject="test", tenant=tenant, scopes=list(Scope), now=NOW, lifetime=lifetime)


def check(token: str, jwks: Path) -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict(json.loads(jwks.read_text()))
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(token, key, ["ES256"], issuer=ISSUER, audience=AUDIENCE)
    return claims


def test_a_token_says_who_pays_and_what_is_allowed(store: CertStore) -> None:
    claims = check(sign(store), store.root / "trust" / "jwks.json")
    assert (claims["tenant"], claims["scope"]) == ("acme", "infer admin fleet")
    assert claims["exp"] - claims["iat"] == 3600


def test_the_public_key_set_holds_no_private_part(store: CertStore) -> None:
    (key,) = json.loads((store.root / "trust" / "jwks.json").read_text())["keys"]
    assert set(key) == {"crv", "kty", "x", "y", "alg", "use", "kid"}


def test_tokens_of_the_key_before_still_count_and_older_ones_do_not(store: CertStore) -> None:
    jwks = store.issue(Identity(Role.GATEWAY, "gateway"), NOW) / "jwks.json"
    tokens = []
    for _ in range(3):
        tokens.append(sign(store))
        store.rotate_signing_key(NOW)
    with pytest.raises(KeyError):
        check(tokens[0], jwks)
    with pytest.raises(KeyError):
        check(tokens[1], jwks)
    assert check(tokens[2], jwks)["tenant"] == "acme"
    assert check(sign(store), jwks)["tenant"] == "acme"


@pytest.mark.parametrize("tenant", ["", " acme", "acme\r\nx-tenant: other", "é", "x" * 129])
def test_a_tenant_that_no_header_can_carry_is_refused(store: CertStore, tenant: str) -> None:
    with pytest.raises(NameRefused):
        sign(store, tenant)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=-1), timedelta(days=31)])
def test_a_token_lives_neither_backwards_nor_for_ever(store: CertStore, lifetime: timedelta) -> None:
    with pytest.raises(LifetimeRefused):
        sign(store, lifetime=lifetime)
