"""Development certificates and tokens: an authority, who holds what, and replacing it while it is in use."""

from mesh.certs.authority import Authority
from mesh.certs.errors import AuthorityExists, AuthorityMissing, CertsError, KeyUnreadable, NameRefused
from mesh.certs.identity import Identity, Role
from mesh.certs.store import LOCAL_HOSTS, CertStore, Held
from mesh.certs.tokens import AUDIENCE, ISSUER, Scope

__all__ = [
    "AUDIENCE",
    "ISSUER",
    "LOCAL_HOSTS",
    "Authority",
    "AuthorityExists",
    "AuthorityMissing",
    "CertStore",
    "CertsError",
    "Held",
    "Identity",
    "KeyUnreadable",
    "NameRefused",
    "Role",
    "Scope",
]
