"""A client shows its certificate and its token over TLS, and says which file is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event
from time import monotonic

import grpc
import numpy as np
import pytest
from starling.predict.v1.predict_service_pb2 import PredictRequest, PredictResponse
from starling.predict.v1.predict_service_pb2_grpc import PredictServiceServicer, add_PredictServiceServicer_to_server

from mesh.certs import CertStore, Identity, Role
from mesh.certs.folder import publish
from services.client import AsyncClient, Client, InvalidInput, PermissionDenied, Tls, Unauthenticated, Unavailable
from services.client.call import main
from services.client.tls import TOKEN_BYTES_MAX

SERVER = Identity(Role.GATEWAY, "gateway")
AGENT = Identity(Role.AGENT, "drone-7")
INPUTS = {"x": np.zeros(1, np.float32)}


class Guarded(PredictServiceServicer):
    """Answers who showed which token; refuses two of them."""

    def Predict(  # noqa: N802
        self, request: PredictRequest, context: grpc.ServicerContext[PredictRequest, PredictResponse]
    ) -> PredictResponse:
        headers = dict(context.invocation_metadata())
        shown = str(headers.get("authorization", ""))
        if shown == "Bearer expired":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "it ended")
        if shown == "Bearer foreign":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not yours")
        return PredictResponse(model_name=request.model_name, model_version=1, node=shown)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CertStore:
    store = CertStore(tmp_path_factory.mktemp("certs"))
    store.create("starling", datetime.now(UTC))
    store.issue(SERVER, datetime.now(UTC), hosts=["127.0.0.1", "gateway.example.com"])
    store.issue(AGENT, datetime.now(UTC))
    return store


@pytest.fixture(scope="module")
def target(store: CertStore) -> Iterator[str]:
    folder = store.folder(SERVER)
    pair = (folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()
    credentials = grpc.ssl_server_credentials([pair], (folder / "ca.crt").read_bytes(), require_client_auth=True)
    server = grpc.server(ThreadPoolExecutor(2))
    add_PredictServiceServicer_to_server(Guarded(), server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def files(store: CertStore) -> dict[str, Path]:
    folder = store.folder(AGENT)
    return {"ca": folder / "ca.crt", "cert": folder / "tls.crt", "key": folder / "tls.key"}


def test_a_token_file_is_read_for_every_call(target: str, files: dict[str, Path], tmp_path: Path) -> None:
    token = tmp_path / "token"
    with Client(target, tls=Tls(**files, token=token)) as client:
        for text in ("first", "second"):
            token.write_text(text + "\n")
            assert client.predict("m", INPUTS).node == f"Bearer {text}"


async def test_the_asyncio_client_does_the_same(target: str, files: dict[str, Path]) -> None:
    async with AsyncClient(target, tls=Tls(**files, token=lambda: "made")) as client:
        assert (await client.predict("m", INPUTS)).node == "Bearer made"


def test_without_a_token_none_is_sent(target: str, files: dict[str, Path]) -> None:
    with Client(target, tls=Tls(**files)) as client:
        assert client.predict("m", INPUTS).node == ""


def test_refusals_have_their_own_errors(target: str, files: dict[str, Path]) -> None:
    for token, kind in (("expired", Unauthenticated), ("foreign", PermissionDenied)):
        with Client(target, tls=Tls(**files, token=lambda text=token: text)) as client, pytest.raises(kind):  # type: ignore[misc]
            client.predict("m", INPUTS)


def test_certificate_and_key_belong_together_while_they_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bytes, ...]] = []
    monkeypatch.setattr(grpc, "ssl_channel_credentials", lambda *pem: seen.append(pem))
    names = ("ca.crt", "tls.key", "tls.crt")
    publish(tmp_path, dict.fromkeys(names, b"0"), datetime.now(UTC))
    stop = Event()

    def replace() -> None:
        for version in count(1):
            if stop.is_set():
                return
            publish(tmp_path, dict.fromkeys(names, str(version).encode()), datetime.now(UTC))

    with ThreadPoolExecutor(1) as pool:
        replaced = pool.submit(replace)
        end_s = monotonic() + 30
        while (len(seen) < 300 or len(set(seen)) < 5) and monotonic() < end_s:
            Tls(ca=tmp_path / "ca.crt", cert=tmp_path / "tls.crt", key=tmp_path / "tls.key").read_credentials()
        stop.set()
        replaced.result(10)
    assert all(len(set(pem)) == 1 for pem in seen)
    assert len(set(seen)) >= 5


def test_a_server_has_to_prove_its_name(target: str, files: dict[str, Path]) -> None:
    with Client(target, tls=Tls(**files, server_name="gateway.example.com")) as client:
        assert client.predict("m", INPUTS).model == "m"
    with Client(target, tls=Tls(**files, server_name="other.example.com")) as client, pytest.raises(Unavailable):
        client.predict("m", INPUTS)


def test_a_server_of_another_authority_is_not_trusted(target: str, files: dict[str, Path], tmp_path: Path) -> None:
    other = CertStore(tmp_path)
    other.create("starling", datetime.now(UTC))
    with (
        Client(target, tls=Tls(**{**files, "ca": tmp_path / "trust" / "ca.crt"}, token=lambda: "t")) as client,
        pytest.raises(Unavailable),
    ):
        client.predict("m", INPUTS)


def test_what_is_missing_is_named_before_anything_is_sent(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"tls\.key is missing"):
        Client("127.0.0.1:1", tls=Tls(ca=files["ca"], cert=files["cert"]))
    with pytest.raises(InvalidInput, match=r"tls\.ca .*nowhere cannot be read: No such file"):
        Client("127.0.0.1:1", tls=Tls(ca=tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="both given"):
        Client("127.0.0.1:1", tls=Tls(), credentials=grpc.ssl_channel_credentials())


@pytest.mark.parametrize("text", ["", "two words", "é", "a\nx-tenant: b", "x" * (TOKEN_BYTES_MAX + 1)])
def test_a_text_that_is_no_token_is_not_sent_and_not_shown(target: str, files: dict[str, Path], text: str) -> None:
    with Client(target, tls=Tls(**files, token=lambda: text)) as client:
        with pytest.raises(InvalidInput) as caught:
            client.predict("m", INPUTS)
        assert not text or text not in str(caught.value)


def test_the_token_does_not_show(files: dict[str, Path]) -> None:
    assert "hidden" not in repr(Tls(**files, token="hidden"))


def test_the_command_takes_files_and_no_token(
    target: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("expired")
    flags = [f"--{name}={path}" for name, path in files.items()]
    command = ["m", "--target", target, "--input", "x=[0]", *flags, "--token-file", str(token)]
    assert main(command) == 1
    token.write_text("good")
    assert main(command) == 0
    assert "Bearer good" in capsys.readouterr().out  # this server answers with what it was shown
