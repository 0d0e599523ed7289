"""Triton's own server as a peer in benchmarks: fetched, configured and started on this machine.

Only its Python backend can be had as a package, so what is measured is Triton with models in Python.
"""

from mesh.bench.triton.models import embedder_model, identity_model, nanodet_model, raptor_model
from mesh.bench.triton.package import TritonMissing, TritonPackage, ensure_triton
from mesh.bench.triton.repository import TritonModel, TritonTensor
from mesh.bench.triton.server import start_triton

__all__ = [
    "TritonMissing",
    "TritonModel",
    "TritonPackage",
    "TritonTensor",
    "embedder_model",
    "ensure_triton",
    "identity_model",
    "nanodet_model",
    "raptor_model",
    "start_triton",
]
