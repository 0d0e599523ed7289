"""Certificates prove what they should, to nobody for longer than they should, and keys stay private."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from mesh.certs import AuthorityExists, AuthorityMissing, CertStore, Identity, KeyUnreadable, NameRefused, Role
from mesh.certs.errors import LifetimeRefused

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
NODE = Identity(Role.NODE, "edge-1")
AGENT = Identity(Role.AGENT, "drone-7")


@pytest.fixture
def store(tmp_path: Path) -> CertStore:
    store = CertStore(tmp_path / "certs")
    store.create("starling", NOW)
    return store


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verify(certificate: Path, ca: Path, at: datetime) -> None:
    """Checks a server's certificate as a careful client does."""
    builder = PolicyBuilder().store(Store([load(ca)])).time(at)
    builder.build_server_verifier(x509.DNSName("localhost")).verify(load(certificate), [])


def test_a_node_proves_its_name_under_the_authority(store: CertStore) -> None:
    folder = store.issue(NODE, NOW, hosts=["localhost", "127.0.0.1"])
    names = load(folder / "tls.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://starling/node/edge-1"]
    verify(folder / "tls.crt", folder / "ca.crt", NOW)


def test_a_certificate_ends(store: CertStore) -> None:
    folder = store.issue(NODE, NOW, hosts=["localhost"], lifetime=timedelta(days=2))
    verify(folder / "tls.crt", folder / "ca.crt", NOW + timedelta(days=1))
    with pytest.raises(VerificationError):
        verify(folder / "tls.crt", folder / "ca.crt", NOW + timedelta(days=3))


def test_another_authority_proves_nothing(store: CertStore, tmp_path: Path) -> None:
    other = CertStore(tmp_path / "other")
    other.create("starling", NOW)
    folder = other.issue(NODE, NOW, hosts=["localhost"])
    with pytest.raises(VerificationError):
        verify(folder / "tls.crt", store.root / "trust" / "ca.crt", NOW)


def test_an_agent_cannot_pose_as_a_server(store: CertStore) -> None:
    uses = load(store.issue(AGENT, NOW) / "tls.crt").extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_only_the_owner_reads_keys_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = CertStore(tmp_path / "certs")
        store.create("starling", NOW)
        store.issue(NODE, NOW)
    finally:
        os.umask(before)
    for path in (tmp_path / "certs").rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        else:
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_holders_do_not_get_the_keys_of_the_authority(store: CertStore) -> None:
    files = {path.name for path in store.issue(Identity(Role.GATEWAY, "gateway"), NOW).iterdir() if path.is_file()}
    assert files == {"tls.crt", "tls.key", "ca.crt", "jwks.json"}
    assert {path.name for path in (store.root / "trust").iterdir() if path.is_file()} == {"ca.crt", "jwks.json"}


def test_rotation_replaces_certificate_and_key_and_keeps_what_they_prove(store: CertStore) -> None:
    folder = store.issue(NODE, NOW, hosts=["localhost", "10.0.0.7"])
    old_certificate, old_key = load(folder / "tls.crt"), (folder / "tls.key").read_bytes()
    assert store.rotate(NOW + timedelta(days=1)) == [NODE]
    new = load(folder / "tls.crt")
    assert new.serial_number != old_certificate.serial_number
    assert (folder / "tls.key").read_bytes() != old_key
    kind = x509.SubjectAlternativeName
    assert set(new.extensions.get_extension_for_class(kind).value) == set(
        old_certificate.extensions.get_extension_for_class(kind).value
    )


def test_rotation_leaves_no_old_key_behind(store: CertStore) -> None:
    folder = store.issue(NODE, NOW)
    for day in range(3):
        store.rotate(NOW + timedelta(days=day))
    versions = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(versions) == 1


def test_a_reader_that_holds_the_folder_sees_one_generation(store: CertStore) -> None:
    folder = store.issue(NODE, NOW)
    generation = (folder / "..data").resolve()
    assert (folder / "tls.crt").resolve().parent == (folder / "tls.key").resolve().parent == generation


def test_an_authority_is_not_overwritten(store: CertStore) -> None:
    before = (store.root / "ca" / "ca.key").read_bytes()
    with pytest.raises(AuthorityExists, match="--replace-ca"):
        store.create("starling", NOW)
    assert (store.root / "ca" / "ca.key").read_bytes() == before


def test_replacing_the_authority_issues_everything_anew(store: CertStore) -> None:
    folder = store.issue(NODE, NOW, hosts=["localhost"])
    store.create("starling", NOW, replace=True)
    verify(folder / "tls.crt", store.root / "trust" / "ca.crt", NOW)


def test_without_an_authority_nothing_is_signed(tmp_path: Path) -> None:
    with pytest.raises(AuthorityMissing, match="starling certs init"):
        CertStore(tmp_path).issue(NODE, NOW)


def test_a_broken_authority_is_named(store: CertStore) -> None:
    (store.root / "ca" / "ca.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n")
    with pytest.raises(KeyUnreadable, match=r"ca\.key"):
        store.issue(NODE, NOW)


def test_a_certificate_does_not_outlive_its_authority(store: CertStore) -> None:
    with pytest.raises(LifetimeRefused, match="authority"):
        store.issue(NODE, NOW, lifetime=timedelta(days=400))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "../../etc", "é", "x" * 64, "a\n"])
def test_a_name_cannot_reach_outside_of_its_role(name: str) -> None:
    with pytest.raises(NameRefused):
        Identity(Role.AGENT, name)


@pytest.mark.parametrize("text", ["node", "root/x", "/x", "node/", "node/a/b"])
def test_a_text_that_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(NameRefused):
        Identity.parse(text)
