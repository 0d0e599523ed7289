"""What makes a gateway secure, as functions of values: TLS, tokens, rights, limits and the words of refusals."""

from mesh.gateway.security.apply import further_clusters, secure_control, secure_listener, secure_nodes
from mesh.gateway.security.file import NoSecurityPlan, read_security, write_security
from mesh.gateway.security.plan import DEFAULT_RATE, Rate, RemoteKeys, SecurityPlan
from mesh.gateway.security.transport import build_secrets

__all__ = [
    "DEFAULT_RATE",
    "NoSecurityPlan",
    "Rate",
    "RemoteKeys",
    "SecurityPlan",
    "build_secrets",
    "further_clusters",
    "read_security",
    "secure_control",
    "secure_listener",
    "secure_nodes",
    "write_security",
]
