"""Who holds a certificate: a role and a name, written as a SPIFFE id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mesh.certs.errors import NameRefused

# What SPIFFE allows in a path segment and in a trust domain; both also name folders here.
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}")
_TRUST_DOMAIN = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class Role(StrEnum):
    """What a certificate's holder is."""

    GATEWAY = "gateway"
    NODE = "node"
    AGENT = "agent"
    ADMIN = "admin"
    CONTROL = "control"

    @property
    def serves(self) -> bool:
        """Whether the holder also listens, and so proves to be a host."""
        return self in (Role.GATEWAY, Role.NODE, Role.CONTROL)


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """One holder.

    >>> Identity(Role.NODE, "edge-1").uri("starling")
    'spiffe://starling/node/edge-1'
    """

    role: Role
    name: str

    def __post_init__(self) -> None:
        """Refuses names that could be mistaken for another one's.

        Raises:
            NameRefused: says what is allowed.
        """
        if not _SEGMENT.fullmatch(self.name):
            raise NameRefused(
                f"{self.role} name {self.name!r} cannot stand in an identity; "
                "expected 1 to 63 letters, digits, `-`, `_` or `.`, not beginning with `.`"
            )

    def uri(self, trust_domain: str) -> str:
        """Returns its SPIFFE id."""
        return f"spiffe://{trust_domain}/{self.role}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Returns the identity that `ROLE/NAME` spells.

        Raises:
            NameRefused: says what was expected.
        """
        role, slash, name = text.partition("/")
        if not slash or role not in frozenset(Role):
            raise NameRefused(f"{text!r} is no identity; expected {'|'.join(Role)}, `/` and a name: node/edge-1")
        return cls(Role(role), name)

    def __str__(self) -> str:
        """Returns what `parse` reads."""
        return f"{self.role}/{self.name}"


def check_trust_domain(trust_domain: str) -> str:
    """Returns a trust domain that can stand in a SPIFFE id.

    Raises:
        NameRefused: says what is allowed.
    """
    if not _TRUST_DOMAIN.fullmatch(trust_domain):
        raise NameRefused(
            f"trust domain {trust_domain!r} cannot stand in an identity; "
            "expected 1 to 128 lower-case letters, digits, `-`, `_` or `.`"
        )
    return trust_domain
