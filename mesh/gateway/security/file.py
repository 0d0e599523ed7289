"""A security plan as a file, which is how the control plane is told of it. It holds no secret, only where they are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mesh.errors import MeshError
from mesh.gateway.security.plan import Rate, RemoteKeys, SecurityPlan
from services.host import Address


class NoSecurityPlan(MeshError):
    """A file that should say who may call gateways says something else.

    Attributes:
        path: the file.
    """

    reason = "NO_SECURITY_PLAN"

    def __init__(self, path: Path, why: Exception) -> None:
        self.path = path
        super().__init__(f"{path} is no security plan: {why!r}; write one with `starling up --secure`")


def write_security(plan: SecurityPlan, path: Path, *, keys_file: Path | None = None) -> Path:
    """Writes a plan that `read_security` reads; returns the path.

    Args:
        plan: what to write.
        path: where to.
        keys_file: file with the keys of tokens, read with every reading of the plan instead of those in the plan.
    """
    fields: dict[str, Any] = asdict(plan)
    if isinstance(plan.keys, RemoteKeys):
        fields["keys"]["address"] = str(plan.keys.address)
    if keys_file is not None:
        fields["keys"] = {"file": str(keys_file)}
    path.write_text(json.dumps(fields, indent=1, default=str) + "\n", "utf-8")
    return path


def read_security(path: Path) -> SecurityPlan:
    """Returns the plan in a file.

    Raises:
        OSError: it cannot be read.
        NoSecurityPlan: it holds something else; says what.
    """
    try:
        fields = json.loads(path.read_text("utf-8"))
        keys = fields["keys"]
        return SecurityPlan(
            certificates=Path(fields["certificates"]),
            secrets=Path(fields["secrets"]),
            keys=_read_keys(keys),
            trust_domain=fields["trust_domain"],
            issuer=fields["issuer"],
            audience=fields["audience"],
            rate=Rate(**fields["rate"]),
            rate_by_tenant={tenant: Rate(**rate) for tenant, rate in fields["rate_by_tenant"].items()},
            rate_everywhere=bool(fields["rate_everywhere"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoSecurityPlan(path, error) from error


def _read_keys(keys: Any) -> str | RemoteKeys:
    if isinstance(keys, str):
        return keys
    if "file" in keys:
        return Path(keys["file"]).read_text("utf-8")
    return RemoteKeys(keys["uri"], Address.parse(keys["address"]), Path(keys["ca"]))
