"""What benchmarks run on: servers on one core, the load generator on another, both from this environment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console

from mesh.child import Child
from mesh.errors import MeshError, ProgramMissing
from mesh.local_mesh import NODE_COMMAND
from mesh.program import Program
from mesh.supervisor import Supervisor

PREDICT = "/starling.predict.v1.PredictService/Predict"
_LOAD_GRACE_S = 60.0
_CALL_S = 10.0
_LAG_MAX_US = 20_000
_METRICS_TIMEOUT_S = 5.0


class BenchFailed(MeshError):
    """A part of a benchmark did not do its work, so there is nothing to report."""

    reason = "BENCH_FAILED"


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load generator saw.

    Attributes:
        rps: answered requests per second.
        p50_us, p99_us: round trip.
    """

    requests: int
    rps: float
    p50_us: float
    p99_us: float
    request_bytes: int
    response_bytes: int


class Rig:
    """Starts servers and drives load at them. Servers get the first core, the load the last one.

    Args:
        supervisor: owns the servers.
        folder: for repositories and request files; removed by `open_rig`.
        console: tells the person who waits.
    """

    def __init__(self, supervisor: Supervisor, folder: Path, console: Console) -> None:
        cores = sorted(os.sched_getaffinity(0))
        self.server_core, self.load_core = cores[0], cores[-1]
        self.folder = folder
        self.console = console
        self._supervisor = supervisor

    async def start_node(self, repository: Path, *models: str, flags: Sequence[str] = ()) -> Child:
        """Starts a node with these models on the server's core."""
        command = [
            *NODE_COMMAND,
            "--repository",
            str(repository),
            "--name",
            "bench",
            "--grpc",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
        ]
        for model in models:
            command += ["--model", model]
        return await self.start(Program("node", (*command, *flags)))

    async def start_echo(self) -> Child:
        """Starts the bare C++ gRPC echo on the server's core."""
        return await self.start(Program("echo", (find_program("starling-echo"), "127.0.0.1:0")))

    async def start_aio(self) -> Child:
        """Starts the same service written on grpc.aio on the server's core."""
        return await self.start(Program("aio", (sys.executable, "-P", "-m", "mesh.bench.aio_server")))

    async def start(self, program: Program) -> Child:
        """Starts any server on the server's core; its facts name its address as `grpc`."""
        pinned = replace(program, command=("taskset", "-c", str(self.server_core), *program.command))
        (child,) = await self._supervisor.start([pinned])
        return child

    async def stop(self) -> None:
        """Stops every server."""
        await self._supervisor.stop()

    async def load(
        self,
        server: Child,
        request: Path,
        *,
        outstanding: int,
        seconds: float,
        requests_max: int = 0,
        method: str = PREDICT,
    ) -> Load:
        """Sends the request again and again, always `outstanding` at once, and returns what came of it.

        Raises:
            BenchFailed: a request failed, or the generator did.
        """
        command = [find_program("starling-load"), server.facts["grpc"], method, str(request)]
        command += [str(outstanding), str(seconds), *([str(requests_max)] if requests_max else [])]
        try:
            found = await self.run_json(*command, core=self.load_core, timeout_s=seconds + _LOAD_GRACE_S)
        except BenchFailed as error:
            raise BenchFailed(f"{server!r}: {error}; its last words: {server.stderr_tail or 'none'}") from error
        if found["errors"]:
            raise BenchFailed(f"{server!r}: {found['errors']} requests failed, the first with: {found['first_error']}")
        return Load(**{name: found[name] for name in Load.__slots__})

    async def replay(
        self,
        server: Child,
        request: Path,
        trace: Path,
        *,
        seconds: float,
        method: str = PREDICT,
        outcomes: Path | None = None,
    ) -> Mapping[str, Any]:
        """Sends the requests of a trace at their times and returns what became of them.

        `outcomes` is a file for a line on each: arrival and duration in microseconds, and its gRPC code.

        Raises:
            BenchFailed: the generator failed, or was so late itself that its figures mean nothing.
        """
        found = await self.run_json(
            *(find_program("starling-replay"), server.facts["grpc"], method, str(request), str(trace)),
            *([str(outcomes)] if outcomes else []),
            core=self.load_core,
            timeout_s=seconds + _LOAD_GRACE_S,
        )
        if found["lag_p99_us"] > _LAG_MAX_US:
            raise BenchFailed(
                f"the load generator was {found['lag_p99_us'] / 1e3:.0f} ms late; keep the machine quiet and run again"
            )
        return found

    async def call(self, server: Child, request: Path, method: str = PREDICT) -> bytes:
        """Sends the request once and returns the bytes of the answer, to be judged before anything is measured.

        Raises:
            BenchFailed: the server refused it.
        """
        content = await asyncio.to_thread(request.read_bytes)
        async with grpc.aio.insecure_channel(server.facts["grpc"]) as channel:
            call = channel.unary_unary(method, request_serializer=None, response_deserializer=None)
            try:
                answer = await call(content, timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                raise BenchFailed(f"{server.name} refused a request: {error.code().name} {error.details()}") from error
        assert isinstance(answer, bytes), "without a deserialiser an answer is bytes"
        return answer

    async def run_json(self, *command: str, core: int, timeout_s: float) -> Mapping[str, Any]:
        """Runs a program on one core and returns the JSON object it prints.

        Raises:
            BenchFailed: it printed something else, or ran too long.
        """
        process = await asyncio.create_subprocess_exec(
            "taskset", "-c", str(core), *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), timeout_s)
        except TimeoutError as error:
            raise BenchFailed(f"{Path(command[0]).name} did not end within {timeout_s:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            found = json.loads(out)
        except ValueError as error:
            said = err.decode(errors="replace").strip()[-500:]
            raise BenchFailed(f"{Path(command[0]).name} ended with {process.returncode}: {said}") from error
        assert isinstance(found, dict), "programs of the bench print one object"
        return found


@contextlib.asynccontextmanager
async def open_rig(console: Console) -> AsyncIterator[Rig]:
    """Yields a rig; leaves no process and no file behind."""
    with tempfile.TemporaryDirectory(prefix="starling-bench-") as folder:
        async with Supervisor() as supervisor:
            yield Rig(supervisor, Path(folder), console)


def find_program(name: str) -> str:
    """Returns the path of a program that was built with the native modules.

    Raises:
        ProgramMissing: it was not built.
    """
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise ProgramMissing(name, str(path), "it was not built; run `make build`")
    return str(path)


async def read_counter(node: Child, name: str) -> float:
    """Returns the sum of a metric of a node over its labels; 0 when it has none."""

    def read() -> float:
        address = f"http://{node.facts['metrics']}/metrics"
        with urllib.request.urlopen(address, timeout=_METRICS_TIMEOUT_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    return await asyncio.to_thread(read)


def read_rss_bytes(pid: int) -> int:
    """Returns the resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchFailed(f"process {pid} has ended")
