"""A real `starling node` as a process of its own, for tests."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from prometheus_client.parser import text_string_to_metric_families

import mesh
from mesh.program import parse_ready_line

READY_S = 60.0
STOP_S = 15.0
_LEASH = str(Path(mesh.__file__).with_name("leash.py"))
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class RunningNode:
    """A node that was started: its addresses, its log, its counters and its end.

    It has its own process group, and the kernel kills it when the tests die, however they die.

    Attributes:
        target: `HOST:PORT` of gRPC; empty until ready.
        metrics_address: `HOST:PORT` of the metrics; empty until ready.
        models: `name:version` of each loaded model; empty until ready.
    """

    def __init__(self, folder: Path, flags: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.target = ""
        self.metrics_address = ""
        self.models: tuple[str, ...] = ()
        self._log = folder / f"node-{time.monotonic_ns()}.log"
        leash = (sys.executable, "-I", "-S", _LEASH, str(os.getpid()))
        command = (sys.executable, "-P", "-m", "services.host.cli", "node", *flags)
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*leash, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )

    def wait_ready(self, timeout_s: float = READY_S) -> Self:
        """Waits for the ready line and takes the addresses from it."""
        facts = parse_ready_line(self._read_line(timeout_s))
        assert facts is not None, f"the first line is no ready line\n{self.log}"
        self.target, self.metrics_address = facts["grpc"], facts["metrics"]
        self.models = tuple(facts["models"].split(","))
        return self

    @property
    def log(self) -> str:
        """Everything it has written to standard error."""
        return self._log.read_text(errors="replace")

    @property
    def port(self) -> int:
        """The port of gRPC."""
        return int(self.target.rpartition(":")[2])

    def connect(self, *options: tuple[str, int]) -> grpc.Channel:
        """Returns a channel of its own; the caller closes it."""
        return grpc.insecure_channel(self.target, (*_CHANNEL_OPTIONS, *options))

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Waits for the end; returns the exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the node runs after {timeout_s:g} s\n{self.log}") from None

    def read_metrics(self) -> str:
        """Returns the text of the metrics endpoint."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as reply:
            return str(reply.read().decode())

    def count(self, name: str, **labels: str) -> float:
        """Returns the sum over the samples of a name that carry these labels."""
        # Parsing all of the text would take longer than a short model run.
        lines = (line for line in self.read_metrics().splitlines() if line.startswith(name))
        return sum(
            sample.value
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kills the whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_S)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read_line(self, timeout_s: float) -> str:
        stdout = self.process.stdout
        assert stdout is not None
        end_s = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                assert selector.select(end_s - time.monotonic()), f"no ready line in {timeout_s:g} s\n{self.log}"
                piece = os.read(stdout.fileno(), 4096)
                assert piece, f"the node ended with status {self.wait()}\n{self.log}"
                line += piece
        return line.decode()


def find_free_port() -> int:
    """Returns a port that was free a moment ago, for a node whose port must be known before it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Returns whether somebody takes connections at a loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


StartNode = Callable[..., RunningNode]


def node_flags(repository: Path, *more: str, grpc: str = "127.0.0.1:0", metrics: str = "127.0.0.1:0") -> list[str]:
    """Returns the command line of a node on free ports."""
    return ["--repository", str(repository), "--name", "node-1", "--grpc", grpc, "--metrics", metrics, *more]


@contextmanager
def running_node(folder: Path, repository: Path, *flags: str) -> Iterator[RunningNode]:
    """Starts a node, waits until it is ready, and kills it in the end."""
    with RunningNode(folder, node_flags(repository, *flags)) as node:
        yield node.wait_ready()
