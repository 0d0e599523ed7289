"""The errors of the control plane, as callers of NodeService see them."""

from __future__ import annotations

from pathlib import Path

from mesh.errors import MeshError


class ControlError(MeshError):
    """Root of the errors that the control plane answers with."""


class InvalidNode(ControlError):
    """A node describes itself in a way that cannot be served."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"


class NotAllowed(ControlError):
    """The holder of a certificate may not do that."""

    status = "PERMISSION_DENIED"
    reason = "NOT_ALLOWED"

    def __init__(self, spiffe_id: str, what: str, expected: str) -> None:
        self.spiffe_id = spiffe_id
        super().__init__(f"{spiffe_id or 'a certificate without a SPIFFE id'} may not {what}; {expected}")


class InvalidRoute(ControlError):
    """A route cannot be."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"


class RouteNotFound(ControlError):
    """Nobody has given this model a route."""

    status = "NOT_FOUND"
    reason = "ROUTE_NOT_FOUND"

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(f"model {model!r} has no route; `starling mesh status` shows the routes")


class RoutesNotWritten(ControlError):
    """The file of the routes cannot be written, so nothing has changed."""

    status = "FAILED_PRECONDITION"
    reason = "ROUTES_NOT_WRITTEN"

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"cannot write the routes to {path}: {why}; nothing has changed")


class NodeNotFound(ControlError):
    """There is no node of that name."""

    status = "NOT_FOUND"
    reason = "NODE_NOT_FOUND"

    def __init__(self, node: str) -> None:
        self.node = node
        super().__init__(f"no node is called {node!r}; `starling mesh status` shows the nodes")


class NodeNameTaken(ControlError):
    """Another process holds a live lease of that name."""

    status = "ALREADY_EXISTS"
    reason = "NODE_NAME_TAKEN"

    def __init__(self, node: str, grpc_address: str, retry_delay_s: float) -> None:
        self.node = node
        self.grpc_address = grpc_address
        self.retry_delay_s = retry_delay_s
        super().__init__(
            f"node {node!r} is registered from {grpc_address} and its lease is alive; give this one another --name, "
            f"or wait {retry_delay_s:.1f} s if that process has ended"
        )


class LeaseExpired(ControlError):
    """The lease is not alive; the node has to register again."""

    status = "FAILED_PRECONDITION"
    reason = "LEASE_EXPIRED"

    def __init__(self, lease_id: str) -> None:
        self.lease_id = lease_id
        super().__init__(f"lease {lease_id!r} is not alive; register again")


class RegistryFull(ControlError):
    """There are as many nodes as the control plane keeps."""

    status = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"

    def __init__(self, nodes_max: int) -> None:
        self.nodes_max = nodes_max
        super().__init__(f"{nodes_max} nodes are registered, which is the most; raise --nodes-max")


class NoControlCertificate(ControlError):
    """The control plane was given somebody else's certificate, and nobody would believe it."""

    status = "FAILED_PRECONDITION"
    reason = "NO_CONTROL_CERTIFICATE"

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri
        super().__init__(
            f"the certificate in {folder} is of {uri or 'no SPIFFE id'}; gateways and nodes expect "
            "spiffe://TRUST-DOMAIN/control/NAME; issue one with `starling certs issue control/control`"
        )


class NotInKubernetes(ControlError):
    """Services were named and no API server is known."""

    status = "FAILED_PRECONDITION"
    reason = "NOT_IN_KUBERNETES"

    def __init__(self) -> None:
        super().__init__(
            "--kubernetes-service is given, and KUBERNETES_SERVICE_HOST is not set as it is in every pod; "
            "name the API server with --kubernetes-api https://HOST:PORT"
        )
