"""A node that is told to be secure speaks to those it should, and to nobody else, also while its files change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.certs import CertStore, Identity, Role
from services.client import Client, StarlingError, Unavailable
from tests.support.node import RunningNode, StartNode, node_flags, running_node
from tests.support.waiting import wait_until

NODE = Identity(Role.NODE, "node-1")
GATEWAY = Identity(Role.GATEWAY, "gateway")
AGENT = Identity(Role.AGENT, "drone-7")
CLIENTS = ("spiffe://starling/gateway/", "spiffe://starling/control/control")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CertStore:
    store = CertStore(tmp_path_factory.mktemp("certs"))
    now = datetime.now(UTC)
    store.create("starling", now)
    for holder in (NODE, GATEWAY, AGENT):
        store.issue(holder, now, hosts=["localhost", "127.0.0.1"])
    return store


def tls_flags(folder: Path, *clients: str) -> list[str]:
    files = ["--tls-cert", folder / "tls.crt", "--tls-key", folder / "tls.key", "--tls-client-ca", folder / "ca.crt"]
    return [*map(str, files), *(word for client in clients for word in ("--tls-client", client))]


def credentials(store: CertStore, holder: Identity | None, ca: Path | None = None) -> grpc.ChannelCredentials:
    roots = (ca or store.root / "trust" / "ca.crt").read_bytes()
    if holder is None:
        return grpc.ssl_channel_credentials(roots)
    folder = store.folder(holder)
    return grpc.ssl_channel_credentials(roots, (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())


def connect(node: RunningNode, with_credentials: grpc.ChannelCredentials | None) -> Client:
    return Client(node.target, credentials=with_credentials)


def ask(client: Client) -> str:
    return client.predict("echo", {"x0": np.zeros((1, 64), np.float32)}, deadline_s=5).node


@pytest.fixture(scope="module")
def secure_node(tmp_path_factory: pytest.TempPathFactory, repository: Path, store: CertStore) -> Iterator[RunningNode]:
    flags = tls_flags(store.folder(NODE), *CLIENTS)
    with running_node(tmp_path_factory.mktemp("node"), repository, "--model", "echo", *flags) as node:
        yield node
        assert node.process.poll() is None, node.log


def test_the_gateway_is_answered(secure_node: RunningNode, store: CertStore) -> None:
    with connect(secure_node, credentials(store, GATEWAY)) as client:
        assert ask(client) == "node-1"
    assert "serving TLS as spiffe://starling/node/node-1" in secure_node.log
    assert secure_node.count("starling_tls_certificate_end_seconds") > datetime.now(UTC).timestamp()


def test_plain_text_is_refused(secure_node: RunningNode) -> None:
    with connect(secure_node, None) as client, pytest.raises(Unavailable):
        ask(client)


def test_a_client_without_a_certificate_is_refused(secure_node: RunningNode, store: CertStore) -> None:
    with connect(secure_node, credentials(store, None)) as client, pytest.raises(Unavailable):
        ask(client)


def test_a_certificate_of_another_authority_is_refused(
    secure_node: RunningNode, store: CertStore, tmp_path: Path
) -> None:
    other = CertStore(tmp_path)
    other.create("starling", datetime.now(UTC))
    other.issue(GATEWAY, datetime.now(UTC))
    theirs = credentials(other, GATEWAY, ca=store.root / "trust" / "ca.crt")
    with connect(secure_node, theirs) as client, pytest.raises(Unavailable):
        ask(client)


def test_an_expired_certificate_is_refused(secure_node: RunningNode, store: CertStore) -> None:
    late = Identity(Role.GATEWAY, "late")
    store.issue(late, datetime.now(UTC) - timedelta(days=2), lifetime=timedelta(days=1))
    with connect(secure_node, credentials(store, late)) as client, pytest.raises(Unavailable):
        ask(client)


def test_an_agent_cannot_go_around_the_gateway(secure_node: RunningNode, store: CertStore) -> None:
    before = secure_node.count("starling_tls_refused_clients_total")
    with connect(secure_node, credentials(store, AGENT)) as client, pytest.raises(Unavailable):
        ask(client)
    assert secure_node.count("starling_tls_refused_clients_total") > before


def test_without_names_the_authority_decides(start_node: StartNode, repository: Path, store: CertStore) -> None:
    node = start_node(repository, "--model", "echo", *tls_flags(store.folder(NODE)))
    with connect(node, credentials(store, AGENT)) as client:
        assert ask(client) == "node-1"


def served_serial(node: RunningNode, store: CertStore) -> int:
    """Returns the serial number of the certificate that a new connection is shown."""
    import socket
    import ssl

    context = ssl.create_default_context(cafile=store.root / "trust" / "ca.crt")
    context.load_cert_chain(store.folder(GATEWAY) / "tls.crt", store.folder(GATEWAY) / "tls.key")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", node.port), 5) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def test_renewing_certificates_fails_no_request(start_node: StartNode, repository: Path, tmp_path: Path) -> None:
    store = CertStore(tmp_path / "certs")
    store.create("starling", datetime.now(UTC))
    for holder in (NODE, GATEWAY):
        store.issue(holder, datetime.now(UTC), hosts=["localhost", "127.0.0.1"])
    node = start_node(repository, "--model", "echo", *tls_flags(store.folder(NODE), *CLIENTS))
    failures: list[StarlingError] = []
    answered = [0]
    stop = threading.Event()

    def press() -> None:
        while not stop.is_set():
            # A new connection each time: those that exist keep the certificate they began with.
            with connect(node, credentials(store, GATEWAY)) as client:
                for _ in range(3):
                    try:
                        ask(client)
                        answered[0] += 1
                    except StarlingError as error:
                        failures.append(error)

    with connect(node, credentials(store, GATEWAY)) as lasting:
        assert ask(lasting) == "node-1"
        threads = [threading.Thread(target=press) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                before = served_serial(node, store)
                store.rotate(datetime.now(UTC), only=[NODE])
                assert wait_until(lambda seen=before: served_serial(node, store) != seen)  # type: ignore[misc]
                assert ask(lasting) == "node-1"
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert answered[0] > 20
    assert not failures, failures[0]


def test_bad_new_files_leave_the_old_ones_in_use(start_node: StartNode, repository: Path, tmp_path: Path) -> None:
    store = CertStore(tmp_path / "certs")
    store.create("starling", datetime.now(UTC))
    folder = store.issue(NODE, datetime.now(UTC), hosts=["localhost", "127.0.0.1"])
    store.issue(GATEWAY, datetime.now(UTC))
    node = start_node(repository, "--model", "echo", *tls_flags(folder, *CLIENTS))
    before = served_serial(node, store)
    target = (folder / "tls.key").resolve()
    good = target.read_bytes()
    for bad, words in ((b"", "no PEM private key"), ((store.root / "ca" / "ca.key").read_bytes(), "does not belong")):
        target.write_bytes(bad)
        assert wait_until(lambda text=words: text in node.log), node.log  # type: ignore[misc]
        assert served_serial(node, store) == before
    target.unlink()
    assert wait_until(lambda: "cannot be read: No such file" in node.log), node.log
    with connect(node, credentials(store, GATEWAY)) as client:
        assert ask(client) == "node-1"
    assert node.count("starling_tls_reload_failures_total") == 3
    target.write_bytes(good)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("mismatched", "does not belong to certificate"),
        ("expired", "ended at"),
        ("early", "check the clock"),
        ("empty", "holds no PEM certificate"),
        ("swapped", "holds no PEM certificate"),
    ],
)
def test_a_node_does_not_start_with_files_that_cannot_work(
    tmp_path: Path, repository: Path, damage: str, words: str
) -> None:
    store = CertStore(tmp_path / "certs")
    now = datetime.now(UTC)
    store.create("starling", now - timedelta(days=10))
    days = {"expired": -5, "early": 2}.get(damage, 0)
    folder = store.issue(NODE, now + timedelta(days=days), lifetime=timedelta(days=1))
    flags = tls_flags(folder)
    if damage == "mismatched":
        flags[3] = str(store.root / "ca" / "ca.key")
    elif damage == "swapped":
        flags[1] = flags[3]
    elif damage == "empty":
        (folder / "ca.crt").resolve().write_bytes(b"")
    with RunningNode(tmp_path, node_flags(repository, *flags)) as node:
        assert node.wait() == 1
        last = node.log.splitlines()[-1]
        assert last.startswith("starling node: ")
        assert words in last
        assert "Traceback" not in node.log
        assert "PRIVATE" not in node.log


def test_half_of_the_files_is_a_mistake_that_is_named(tmp_path: Path, repository: Path, store: CertStore) -> None:
    flags = tls_flags(store.folder(NODE))[:2]
    with RunningNode(tmp_path, node_flags(repository, *flags, "--tls-client", "gateway")) as node:
        assert node.wait() == 2
        assert "--tls-key, --tls-client-ca missing" in node.log
        assert "--tls-client gateway is no SPIFFE id" in node.log


def test_a_missing_file_is_named(tmp_path: Path, repository: Path) -> None:
    with RunningNode(tmp_path, node_flags(repository, *tls_flags(tmp_path / "nowhere"))) as node:
        assert node.wait() == 2
        for name in ("tls.crt", "tls.key", "ca.crt"):
            assert f"{name}'; expected a file that exists" in node.log


def test_health_is_behind_tls_too(secure_node: RunningNode, store: CertStore) -> None:
    with grpc.secure_channel(secure_node.target, credentials(store, GATEWAY)) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
