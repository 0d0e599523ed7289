"""Starts Triton's server for a benchmark: on the server's core, on the CPU alone, gRPC alone."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from mesh.bench.rig import Rig
from mesh.bench.triton.package import TritonMissing, TritonPackage
from mesh.bench.triton.repository import TritonModel, write_triton_repository
from mesh.child import Child
from mesh.errors import MeshError
from mesh.program import Probe, Program

_HOST = "127.0.0.1"
_READY_S = 60.0
_GRACE_S = 15.0
# Where Triton and the model's process exchange tensors. It grows on demand, but a process has crashed in its
# allocator while it did; this is enough for every model here.
_SHARED_BYTES = 16 << 20
# What our node sets for itself: large buffers are kept instead of mapped anew for each message.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


async def start_triton(rig: Rig, package: TritonPackage, models: Sequence[TritonModel]) -> Child:
    """Returns a Triton that serves the models; its fact `grpc` is where.

    Raises:
        TritonMissing: it did not start, not even the second time; a model that can not be loaded ends it.
    """
    repository = write_triton_repository(rig.folder / "triton", models, package.packages)
    try:
        return await rig.start(_program(package, repository))
    except MeshError as error:
        # On a busy machine its processes have been seen to lose their locks while they start.
        rig.console.print(f"  Triton did not start and is tried again: {error}", highlight=False, markup=False)
    try:
        return await rig.start(_program(package, repository))
    except MeshError as error:
        raise TritonMissing(f"it does not start: {error}") from error


def _program(package: TritonPackage, repository: Path) -> Program:
    port = _find_free_port()
    flags = {
        "--model-repository": str(repository),
        "--backend-directory": str(package.backends),
        "--grpc-address": _HOST,
        "--grpc-port": str(port),
        "--allow-http": "false",
        "--allow-metrics": "false",
        "--log-info": "false",
        "--log-warning": "false",
        "--exit-timeout-secs": "5",
        "--backend-config": f"python,shm-default-byte-size={_SHARED_BYTES}",
    }
    words = [f"{flag}={value}" for flag, value in flags.items()]
    return Program(
        name="triton",
        command=(str(package.program), "--disable-auto-complete-config", *words),
        probe=_probe(port),
        ready_timeout_s=_READY_S,
        stop_grace_s=_GRACE_S,
        environ={**os.environ, **_MALLOC, "LD_LIBRARY_PATH": str(package.libpython)},
    )


def _probe(port: int) -> Probe:
    async def listens() -> Mapping[str, str] | None:
        # It listens only once every model is loaded.
        try:
            _, writer = await asyncio.open_connection(_HOST, port)
        except OSError:
            return None
        writer.close()
        return {"grpc": f"{_HOST}:{port}"}

    return listens


def _find_free_port() -> int:
    # Triton tells no port that it chose itself. Another process may take this one first; then Triton ends and says so.
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int), "an IPv4 address ends in its port"
    return port
