"""MLServer to measure against: its packages, and a server of the models that we serve."""

from mesh.bench.mlserver.server import start_mlserver

__all__ = ["start_mlserver"]
