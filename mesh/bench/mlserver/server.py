"""Installs MLServer and starts it for a benchmark: on the server's core, in one process."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import grpc
from starling.inference import open_inference_pb2 as pb
from starling.inference.open_inference_pb2_grpc import GRPCInferenceServiceStub

from mesh.bench.locked_packages import LOCKS, ensure_packages
from mesh.bench.rig import Rig
from mesh.child import Child
from mesh.program import Probe, Program

_HOST = "127.0.0.1"
_READY_S = 60.0
_GRACE_S = 15.0
_START = "from mlserver.cli import main; main()"
_CODE = Path(__file__).resolve().parents[1] / "mlserver_models"


async def start_mlserver(rig: Rig, models: Mapping[str, Path | None]) -> Child:
    """Returns an MLServer that serves these models; its fact `grpc` is where.

    Args:
        rig: starts it.
        models: name to graph; a model without one answers its input.

    Raises:
        NotAvailable: its packages cannot be had; says why.
        MeshError: it did not start.
    """
    packages = await ensure_packages("mlserver", LOCKS / "mlserver.txt", rig.console, megabytes=200)
    folder = rig.folder / "mlserver"
    grpc_port, http_port, metrics_port = _find_free_ports(3)
    _write(
        folder / "settings.json",
        {
            "host": _HOST,
            "grpc_port": grpc_port,
            "http_port": http_port,
            "metrics_port": metrics_port,
            # In its own process a model costs a copy of every tensor; with one core there is nothing to gain.
            "parallel_workers": 0,
            "grpc_max_message_length": 64 << 20,
        },
    )
    for name, graph in models.items():
        code = "identity.Identity" if graph is None else "openvino_graph.OpenvinoGraph"
        settings = {"name": name, "implementation": code, "parameters": {"uri": str(graph)} if graph else {}}
        _write(folder / name / "model-settings.json", settings)
    return await rig.start(
        Program(
            name="mlserver",
            # The interpreter beneath our environment: MLServer has an environment of its own.
            command=(getattr(sys, "_base_executable", sys.executable), "-c", _START, "start", str(folder)),
            probe=_probe(grpc_port),
            ready_timeout_s=_READY_S,
            stop_grace_s=_GRACE_S,
            environ={**os.environ, "PYTHONPATH": f"{packages}:{_CODE}", "no_proxy": _HOST},
        )
    )


def _probe(port: int) -> Probe:
    async def is_ready() -> Mapping[str, str] | None:
        async with grpc.aio.insecure_channel(f"{_HOST}:{port}", (("grpc.enable_http_proxy", 0),)) as channel:
            try:
                answer = await GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), timeout=1)
            except grpc.aio.AioRpcError:
                return None
        return {"grpc": f"{_HOST}:{port}"} if answer.ready else None

    return is_ready


def _find_free_ports(count: int) -> list[int]:
    # It tells no port that it chose itself. Another process may take one first; then it ends and says so.
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((_HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _write(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
