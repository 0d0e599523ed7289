"""One child process: started by exec, watched, listened to, and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from mesh.errors import ChildFailed, ChildNotReady, ProgramMissing
from mesh.lines import LineSplitter
from mesh.program import Program, parse_ready_line

_LEASH = str(Path(__file__).with_name("leash.py"))
_STDERR_LINES_MAX = 40
_LINE_SHOWN_MAX = 400
_LOG_SHOWN_MAX = 4000
_PROBE_EVERY_S = 0.02
_PIPE_DRAIN_S = 1.0  # A daemon started by the child may hold a pipe open after it.
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Child(asyncio.SubprocessProtocol):
    """A running process, its facts and its last words. `start` makes one.

    It has its own process group, so a Ctrl-C at the terminal reaches only us, and we decide the
    order of stopping. It is killed when we die, however we die.
    """

    def __init__(self, program: Program) -> None:
        loop = asyncio.get_running_loop()
        self.program = program
        self._transport: asyncio.SubprocessTransport | None = None
        self._splitters = {_STDOUT: LineSplitter(), _STDERR: LineSplitter()}
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES_MAX)
        self._facts: asyncio.Future[Mapping[str, str]] = loop.create_future()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._give_up: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, program: Program) -> Child:
        """Starts the process; does not wait until it is ready. Call it from the main thread.

        Raises:
            ProgramMissing: the interpreter that starts it cannot be executed.
        """
        pipe = None if program.inherits_output else asyncio.subprocess.PIPE
        leash = (sys.executable, "-I", "-S", _LEASH, str(os.getpid()))
        try:
            _, child = await asyncio.get_running_loop().subprocess_exec(
                lambda: cls(program),
                *leash,
                *program.command,
                stdin=asyncio.subprocess.DEVNULL if program.inherits_output else pipe,
                stdout=pipe,
                stderr=pipe,
                env=dict(program.environ),
                process_group=0,
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise ProgramMissing(program.name, sys.executable, why) from error
        return child

    @property
    def name(self) -> str:
        """What people call it."""
        return self.program.name

    @property
    def pid(self) -> int:
        """Process id; also the id of its process group."""
        pid = self._process.get_pid()
        assert pid is not None, "a process that was started has an id"
        return pid

    @property
    def exit_code(self) -> int | None:
        """Exit status, minus the signal that ended it, or None while it runs."""
        return self._process.get_returncode()

    @property
    def stderr_tail(self) -> str:
        """The last lines of standard error, or else of the log file, oldest first."""
        if self._stderr or self.program.log_file is None:
            return "\n".join(self._stderr)
        with suppress(OSError), self.program.log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_SHOWN_MAX))
            return log.read().decode(errors="replace").strip()
        return ""

    @property
    def facts(self) -> Mapping[str, str]:
        """What it said when it became ready; empty before."""
        return self._facts.result() if self._facts.done() else {}

    async def ready(self) -> Mapping[str, str]:
        """Waits until the process is ready and returns the facts it told.

        Raises:
            ChildFailed: it ended first.
            ChildNotReady: its time is over; it still runs and has to be stopped.
        """
        polling = None if self.program.probe is None else asyncio.create_task(self._poll())
        try:
            futures: set[asyncio.Future[Any]] = {self._facts, self._ended}
            await asyncio.wait(
                futures,
                timeout=self.program.ready_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if polling is not None:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)
        if self._facts.done():
            return self._facts.result()
        if self._ended.done():
            raise ChildFailed(self.name, self._ended.result(), self.stderr_tail, doing="starting")
        raise ChildNotReady(self.name, self.program.ready_timeout_s, self.stderr_tail)

    def send_line(self, line: str) -> None:
        """Writes one line to standard input; a process that has gone is not an error."""
        stdin = cast("asyncio.WriteTransport | None", self._process.get_pipe_transport(_STDIN))
        assert stdin is not None, "a child that inherits our output has no input"
        stdin.write(line.encode() + b"\n")

    async def wait(self) -> int:
        """Waits until the process has ended and its output is read; returns the exit status."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process; one that has gone is not an error."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self) -> int:
        """Ends the process: asks, waits for the grace, then kills its whole group."""
        if self.exit_code is None:
            self.send_signal(self.program.stop_signal)
            await asyncio.wait({self._ended}, timeout=self.program.stop_grace_s)
        return await self.kill()

    async def kill(self) -> int:
        """Ends the process and everything in its group now."""
        if self.exit_code is None:
            self._kill_group()
        return await self.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport; called by the event loop."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Takes output; called by the event loop."""
        for line in self._splitters[fd].feed(data):
            self._hear(fd, line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Takes the last line of a pipe; called by the event loop."""
        if fd in self._splitters:
            for line in self._splitters[fd].end():
                self._hear(fd, line)

    def process_exited(self) -> None:
        """Ends what is left of the group; called by the event loop."""
        # Now, not later: as long as a member lives, nobody else can get the group's id.
        self._kill_group()
        loop = asyncio.get_running_loop()
        self._give_up = loop.call_later(_PIPE_DRAIN_S, self._process.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Tells the end; called by the event loop when the process and its pipes are done."""
        exit_code = self.exit_code
        assert exit_code is not None, "the connection to a process ends after the process"
        if self._give_up is not None:
            self._give_up.cancel()
        self._process.close()
        self._ended.set_result(exit_code)

    @property
    def _process(self) -> asyncio.SubprocessTransport:
        assert self._transport is not None, "a child comes from Child.start"
        return self._transport

    def _hear(self, fd: int, line: str) -> None:
        if fd == _STDERR:
            self._stderr.append(line[:_LINE_SHOWN_MAX])
            return
        if self.program.probe is None and not self._facts.done():
            facts = parse_ready_line(line)
            if facts is not None:
                self._facts.set_result(facts)
                return
        if self.program.on_line is not None:
            self.program.on_line(line)

    async def _poll(self) -> None:
        assert self.program.probe is not None, "only a program with a probe is polled"
        # A program with a probe offers nothing to wait on; that is why it has one.
        while (facts := await self.program.probe()) is None:  # noqa: ASYNC110
            await asyncio.sleep(_PROBE_EVERY_S)
        if not self._facts.done():
            self._facts.set_result(facts)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def __repr__(self) -> str:
        """Returns the child's name, process id and state."""
        if self.exit_code is not None:
            state = f"exit={self.exit_code}"
        else:
            state = "ready" if self._facts.done() else "starting"
        return f"<Child {self.name} pid={self.pid} {state}>"
