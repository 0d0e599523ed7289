"""What can go wrong with certificates: each error says what was found and what to do."""

from __future__ import annotations

from pathlib import Path

from mesh.errors import MeshError


class CertsError(MeshError):
    """Root of the tree."""

    reason = "CERTIFICATES"


class AuthorityExists(CertsError):
    """There is an authority already; replacing it makes every certificate that it signed worthless.

    Attributes:
        path: its certificate.
    """

    status = "ALREADY_EXISTS"
    reason = "AUTHORITY_EXISTS"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} exists, and certificates in use are signed with it; `starling certs rotate` renews those; "
            "`starling certs init --replace-ca` makes a new authority and issues everything anew"
        )


class AuthorityMissing(CertsError):
    """The folder has no authority to sign with.

    Attributes:
        path: where its certificate was expected.
    """

    status = "NOT_FOUND"
    reason = "AUTHORITY_MISSING"

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"there is no {path}; make an authority with `starling certs init --dir {path.parent.parent}`")


class KeyUnreadable(CertsError):
    """A key or a certificate cannot be read as what its name says.

    Attributes:
        path: the file.
    """

    reason = "KEY_UNREADABLE"

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"{path} cannot be read: {why}; restore it, or issue it anew with `starling certs`")


class NameRefused(CertsError):
    """A name cannot stand in an identity."""

    status = "INVALID_ARGUMENT"
    reason = "NAME_REFUSED"


class LifetimeRefused(CertsError):
    """A certificate or a token cannot live that long."""

    status = "INVALID_ARGUMENT"
    reason = "LIFETIME_REFUSED"
