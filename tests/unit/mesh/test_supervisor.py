"""The supervisor starts, watches and ends real child processes, and leaves none behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesh.child import Child
from mesh.errors import ChildFailed, ChildNotReady
from mesh.program import Program
from mesh.supervisor import Supervisor

pytestmark = pytest.mark.asyncio

_READY = "import sys, time; print('ready port=1', flush=True)"


def python(name: str, code: str, **options: object) -> Program:
    """Returns a program that runs a line of Python."""
    return Program(name, (sys.executable, "-I", "-c", code), **options)  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    """Tells whether a process runs; one that nobody has waited for yet does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_dead(pid: int, timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while is_alive(pid) and time.monotonic() < end:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.01)
    return not is_alive(pid)


async def test_a_child_is_ready_when_it_says_so() -> None:
    async with Supervisor() as supervisor:
        code = "print('loading'); print('ready grpc=127.0.0.1:1 models=a:1,b:2'); input()"
        (child,) = await supervisor.start([python("node", f"import sys;{code}")])
        assert child.facts == {"grpc": "127.0.0.1:1", "models": "a:1,b:2"}
        assert repr(child) == f"<Child node pid={child.pid} ready>"
        assert os.getpgid(child.pid) == child.pid


async def test_children_are_gone_after_the_context() -> None:
    async with Supervisor() as supervisor:
        children = await supervisor.start(python(f"node-{n}", f"{_READY}; time.sleep(99)") for n in range(3))
    assert not any(is_alive(child.pid) for child in children)
    assert [child.exit_code for child in children] == [-signal.SIGTERM] * 3


async def test_the_youngest_group_is_stopped_first() -> None:
    ended: list[str] = []

    def farewell(name: str) -> Program:
        code = (
            "import os, signal, sys, time; "
            "signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b'bye\\n'), os._exit(0))); "
            f"{_READY}; time.sleep(99)"
        )
        return python(name, code, on_line=lambda line: ended.append(f"{name} {line}"))

    async with Supervisor() as supervisor:
        await supervisor.start([farewell("node")])
        await supervisor.start([farewell("gateway")])
        assert repr(supervisor) == "<Supervisor node | gateway>"
    assert ended == ["gateway bye", "node bye"]


async def test_a_child_that_ignores_the_request_is_killed_after_the_grace() -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_READY}; time.sleep(99)"
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start([python("deaf", code, stop_grace_s=0.1)])
    assert child.exit_code == -signal.SIGKILL


async def test_an_early_end_is_an_error_with_the_last_words() -> None:
    code = "import sys; print('model detector is corrupt', file=sys.stderr); sys.exit(3)"
    async with Supervisor() as supervisor:
        with pytest.raises(ChildFailed) as caught:
            await supervisor.start([python("edge-1", code)])
    assert str(caught.value) == (
        "edge-1 ended with exit status 3 while starting; its last lines:\n  | model detector is corrupt"
    )


async def test_the_first_failure_ends_the_wait_for_the_others() -> None:
    async with Supervisor() as supervisor:
        started = time.monotonic()
        with pytest.raises(ChildFailed):
            await supervisor.start(
                [
                    python("slow", "import time; time.sleep(99)", ready_timeout_s=60),
                    python("bad", "raise SystemExit(1)"),
                ]
            )
    assert time.monotonic() - started < 20


async def test_a_child_that_never_gets_ready_is_an_error_and_is_stopped() -> None:
    program = python("mute", "import time; time.sleep(99)", ready_timeout_s=0.2)
    async with Supervisor() as supervisor:
        (child,) = await supervisor.spawn([program])
        with pytest.raises(ChildNotReady, match=r"mute was not ready after 0\.2 s"):
            await child.ready()
    assert not is_alive(child.pid)


async def test_a_missing_program_is_named() -> None:
    async with Supervisor() as supervisor:
        with pytest.raises(ChildFailed, match=r"/no/such/program: No such file or directory"):
            await supervisor.start([Program("ghost", ("/no/such/program",))])


async def test_a_probe_decides_when_there_is_no_ready_line() -> None:
    answers = iter([None, None, {"grpc": "127.0.0.1:7"}])

    async def probe() -> dict[str, str] | None:
        return next(answers)

    async with Supervisor() as supervisor:
        program = python("gateway", "import time; time.sleep(99)", probe=probe)
        (child,) = await supervisor.start([program])
        assert child.facts == {"grpc": "127.0.0.1:7"}


async def test_an_unasked_end_is_told_once_and_nothing_is_restarted() -> None:
    told: asyncio.Queue[Child] = asyncio.Queue()
    async with Supervisor(on_exit=told.put_nowait) as supervisor:
        (child,) = await supervisor.start([python("node", f"{_READY}; time.sleep(99)")])
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(told.get(), 10) is child
        assert child.exit_code == -signal.SIGTERM
    assert told.empty()


async def test_stopping_tells_nobody() -> None:
    told: list[Child] = []
    async with Supervisor(on_exit=told.append) as supervisor:
        await supervisor.start([python("node", f"{_READY}; time.sleep(99)")])
    assert told == []


async def test_grandchildren_end_with_their_parent() -> None:
    code = (
        "import subprocess, sys; "
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
        "print(f'ready pid={p.pid}', flush=True); p.wait()"
    )
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start([python("parent", code)])
        grandchild = int(child.facts["pid"])
        assert is_alive(grandchild)
    assert await until_dead(grandchild)


async def test_children_die_with_a_supervisor_that_is_killed() -> None:
    code = (
        "import asyncio, sys\n"
        "from mesh.program import Program\n"
        "from mesh.supervisor import Supervisor\n"
        "child = 'import time; print(\"ready\", flush=True); time.sleep(99)'\n"
        "async def main():\n"
        "    async with Supervisor() as s:\n"
        "        (c,) = await s.start([Program('node', (sys.executable, '-c', child))])\n"
        "        print(c.pid, flush=True)\n"
        "        await asyncio.sleep(99)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    assert await until_dead(pid)


async def test_lines_after_the_ready_line_are_handed_over() -> None:
    lines: asyncio.Queue[str] = asyncio.Queue()
    program = python(
        "fleet",
        f"{_READY}; print('ready again'); [print(f'got {{line}}', end='', flush=True) for line in sys.stdin]",
        on_line=lines.put_nowait,
    )
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start([program])
        child.send_line("go")
        assert await asyncio.wait_for(lines.get(), 10) == "ready again"
        assert await asyncio.wait_for(lines.get(), 10) == "got go"


async def test_the_last_words_are_bounded() -> None:
    code = "import sys; [print('x' * 1000, n, file=sys.stderr) for n in range(500)]; sys.exit(1)"
    async with Supervisor() as supervisor:
        with pytest.raises(ChildFailed) as caught:
            await supervisor.start([python("loud", code)])
    assert len(caught.value.stderr_tail) < 40 * 401
