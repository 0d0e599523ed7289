"""Who the client is and whom it trusts: certificates for the connection, a token for each call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from .errors import InvalidInput

TOKEN_BYTES_MAX = 8192 - len("Bearer ")
"""What a gateway reads of a token, less the word before it."""

_READS_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a client is connected securely.

    Certificates are read once, when the client is made, also while they are being replaced in one step, as a Kubernetes
    secret volume or `starling certs` replaces them; make a new client after renewing them. A token is asked for with
    every call, so that a file which is replaced before the token in it ends keeps a client going.

    Attributes:
        ca: file with the authorities to trust, PEM; those of the system without it.
        cert, key: files with the client's own certificate and private key, PEM; both or none.
        token: file with a token, or a function that returns one and does not block; sent as
            `authorization: Bearer …`, and only ever over TLS.
        server_name: what the server's certificate has to prove, where that is not the host of the target.
    """

    ca: str | os.PathLike[str] | None = None
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    token: str | os.PathLike[str] | Callable[[], str] | None = field(default=None, repr=False)
    server_name: str = ""

    def read_credentials(self) -> grpc.ChannelCredentials:
        """Returns what a channel is made with.

        Raises:
            InvalidInput: a file cannot be read, one of certificate and key is missing, or they never stop changing.
        """
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "cert"
            raise InvalidInput(f"tls.{missing} is missing; a certificate and its private key go together")
        # Files that are replaced together may be so between two reads: only what is read twice belongs together.
        found = self._read_files()
        for _ in range(_READS_MAX):
            before, found = found, self._read_files()
            if found == before:
                ca, cert, key = found
                return grpc.ssl_channel_credentials(ca, key, cert)
        raise InvalidInput("the files of tls change with every read; replace certificate and key together, and rarely")

    def _read_files(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        return _read("ca", self.ca), _read("cert", self.cert), _read("key", self.key)

    def build_options(self) -> tuple[tuple[str, str], ...]:
        """Returns the channel options that go with it."""
        return (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()

    def build_authorization(self) -> tuple[tuple[str, str], ...]:
        """Returns the header of one call; none without a token.

        Raises:
            InvalidInput: the token cannot be read or sent. Its text is never part of the message.
        """
        if self.token is None:
            return ()
        if callable(self.token):
            token, where = self.token(), "what tls.token returned"
        else:
            content, where = _read("token", self.token), f"the token in {os.fspath(self.token)}"
            token = (content or b"").decode("ascii", "replace")
        token = token.strip()
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise InvalidInput(f"{where} is {'empty' if not token else 'no token'}; expected one line of ASCII")
        if len(token) > TOKEN_BYTES_MAX:
            raise InvalidInput(f"{where} has {len(token)} bytes; expected at most {TOKEN_BYTES_MAX}")
        return (("authorization", f"Bearer {token}"),)


def _read(name: str, path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    file = Path(path).expanduser()
    try:
        try:
            return file.read_bytes()
        except FileNotFoundError:  # the folder behind a link, gone with the replacement
            return file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"tls.{name} {os.fspath(path)} cannot be read: {error.strerror or error}") from error
