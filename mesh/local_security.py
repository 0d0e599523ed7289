"""What one machine needs to run a secure mesh: certificates, a token, and who gets which."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from mesh.certs import AUDIENCE, ISSUER, LOCAL_HOSTS, CertStore, Identity, Role, Scope
from mesh.certs.store import write_token
from mesh.gateway.security import DEFAULT_RATE, Rate, SecurityPlan, build_secrets, write_security

TENANT = "dev"
_TRUST_DOMAIN = "starling"
_GATEWAY = Identity(Role.GATEWAY, "gateway")
_CONTROL = Identity(Role.CONTROL, "control")
_ADMIN = Identity(Role.ADMIN, "admin")
_AGENT = Identity(Role.AGENT, "agent")
_TOKEN_LIFETIME = timedelta(days=1)
_RENEW_BEFORE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class LocalSecurity:
    """The files of a secure mesh on this machine.

    Attributes:
        plan: what the gateway is told.
        store: the certificates.
    """

    plan: SecurityPlan
    store: CertStore

    def node_flags(self, name: str) -> list[str]:
        """Returns what makes a node speak TLS, with nobody but the gateway, the control plane and admins."""
        files = self._files(Identity(Role.NODE, name))
        flags = ["--tls-cert", files["cert"], "--tls-key", files["key"], "--tls-client-ca", files["ca"]]
        for role in (Role.GATEWAY, Role.CONTROL, Role.ADMIN):
            flags += ["--tls-client", f"spiffe://{self.plan.trust_domain}/{role}/"]
        return flags

    def write(self, path: Path) -> Path:
        """Writes the plan for the control plane, which follows the keys of tokens where `starling certs` keeps them."""
        return write_security(self.plan, path, keys_file=self.store.root / "trust" / "jwks.json")

    @property
    def control_certs(self) -> Path:
        """Folder with which the control plane serves and calls nodes."""
        return self.store.folder(_CONTROL)

    @property
    def admin_certs(self) -> Path:
        """Folder with which a person looks at the mesh."""
        return self.store.folder(_ADMIN)

    def _files(self, holder: Identity) -> dict[str, str]:
        folder = self.store.folder(holder)
        return {"cert": str(folder / "tls.crt"), "key": str(folder / "tls.key"), "ca": str(folder / "ca.crt")}


def prepare_security(
    certs: Path, run_dir: Path, nodes: Sequence[str], now: datetime, rate: Rate = DEFAULT_RATE
) -> LocalSecurity:
    """Makes whatever is missing and renews what ends soon; returns where it all is.

    Args:
        certs: folder of certificates; an authority is made in it when there is none.
        run_dir: existing directory for the gateway's files.
        nodes: names of the nodes.
        now: for what begins now.
        rate: how much each tenant may ask.

    Raises:
        CertsError: the folder holds something else.
    """
    store = CertStore(certs.absolute())
    if not store.exists:
        store.create(_TRUST_DOMAIN, now)
    good = {one.name for one in store.list() if one.end - now > _RENEW_BEFORE}
    for name in nodes:
        _issue(store, Identity(Role.NODE, name), good, now, (*LOCAL_HOSTS, name))
    for holder in (_GATEWAY, _CONTROL, _ADMIN, _AGENT):
        _issue(store, holder, good, now, LOCAL_HOSTS if holder.role.serves else ())
    token = store.sign_token(subject=TENANT, tenant=TENANT, scopes=[Scope.INFER], now=now, lifetime=_TOKEN_LIFETIME)
    write_token(store.root / "tokens" / f"{TENANT}.jwt", token)
    plan = SecurityPlan(
        certificates=store.folder(_GATEWAY),
        secrets=run_dir.absolute(),
        keys=(store.root / "trust" / "jwks.json").read_text("utf-8"),
        trust_domain=store.trust_domain,
        issuer=ISSUER,
        audience=AUDIENCE,
        rate=rate,
    )
    for path, resource in build_secrets(plan).items():
        path.write_text(json.dumps(resource, indent=1) + "\n", "utf-8")
    return LocalSecurity(plan, store)


def _issue(store: CertStore, holder: Identity, good: set[str], now: datetime, hosts: Sequence[str]) -> None:
    if str(holder) not in good:
        store.issue(holder, now, hosts=hosts)
