"""What agents notice when something breaks: nodes, control plane, gateway, a tenant's manners."""

from mesh.bench.faults.benchmark import run

__all__ = ["run"]
