"""Hosts on one machine: real links between namespaces that delay, lose, heal, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from mesh import testbed as testbeds
from mesh.errors import ChildFailed
from mesh.program import Program
from mesh.supervisor import Supervisor
from mesh.testbed import ChangeRefused, LaneStatus, Link, Shape, TestbedMissing, TestbedPlan, WiredTestbed, WireMissing
from mesh.testbed.delayed import DelayedTestbed
from mesh.testbed.namespace import call_inside
from mesh.testbed.wire_control import find_testbeds, read_status
from services.host import Address
from tests.support.processes import wait_for_none
from tests.support.waiting import wait_until

WHY_NOT = testbeds.why_no_wire(testbeds.find_program())
needs_wire = pytest.mark.skipif(WHY_NOT is not None and os.geteuid() != 0, reason=f"needs root: {WHY_NOT}")

_WAIT_S = 60.0
_STARLING = (sys.executable, "-P", "-m", "services.host.cli")
_ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(f"ready at={sys.argv[1]}:{server.getsockname()[1]}", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(1 << 16):
            connection.sendall(data)
"""


def new_name() -> str:
    """A name that no other run uses at the same time."""
    return f"test-{uuid.uuid4().hex[:12]}"


def echo(address: str) -> Program:
    return Program("echo", (sys.executable, "-c", _ECHO, address))


def find_namespaces() -> set[str]:
    """The network namespaces that some process is in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue
    return found


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


@asynccontextmanager
async def wired(*links: Link, seed: int = 1) -> AsyncIterator[tuple[WiredTestbed, Supervisor]]:
    async with Supervisor() as supervisor:
        bed = await testbeds.open_testbed(TestbedPlan(new_name(), links, seed), supervisor, needs_wire=True)
        assert isinstance(bed, WiredTestbed)
        yield bed, supervisor


async def connect(bed: WiredTestbed, supervisor: Supervisor, origin: str, to: str) -> socket.socket:
    """A connection from one host to an echo server at another."""
    (server,) = await supervisor.start([bed.place(to, echo(bed.get_address(to)))])
    target = Address.parse(server.facts["at"])
    namespace = bed.get_namespace(origin)
    connection = call_inside(namespace, lambda: socket.create_connection((target.host, target.port), timeout=_WAIT_S))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


async def wait_for_lanes(bed: WiredTestbed, true: Callable[[Sequence[LaneStatus]], bool]) -> None:
    async with asyncio.timeout(_WAIT_S):
        while not true(await bed.read_lanes()):  # noqa: ASYNC110 - a wire tells only who asks
            await asyncio.sleep(0.01)


def ping_ms(connection: socket.socket) -> float:
    started = time.perf_counter()
    connection.sendall(b"x")
    assert connection.recv(1) == b"x"
    return (time.perf_counter() - started) * 1e3


@needs_wire
async def test_a_round_trip_takes_at_least_both_ways_of_every_link() -> None:
    async with wired(Link("a", "b", Shape(delay_ms=10)), Link("b", "c", Shape(delay_ms=15, jitter_ms=5))) as (bed, sup):
        with await connect(bed, sup, "a", "c") as connection:
            took = [await asyncio.to_thread(ping_ms, connection) for _ in range(20)]
        assert min(took) >= 2 * (10 + 15 - 5)
        lanes = {(lane.link, lane.origin): lane for lane in await bed.read_lanes()}
        assert lanes["a-b", "a"].packets >= 20
        assert lanes["b-c", "b"].packets >= 20  # b forwards what is not its own
        assert all(lane.lost == lane.overflowed == 0 for lane in lanes.values())


@needs_wire
async def test_hosts_see_each_other_and_nothing_else() -> None:
    async with wired(Link("a", "b")) as (bed, sup):
        (server,) = await sup.start([bed.place("b", echo("127.0.0.1"))])
        port = Address.parse(server.facts["at"]).port

        def reach(host: str) -> None:
            socket.create_connection((host, port), timeout=2).close()

        call_inside(bed.get_namespace("b"), lambda: reach("127.0.0.1"))
        for inside, host in (("a", "127.0.0.1"), ("a", "10.77.0.2")):  # loopback is each host's own
            with pytest.raises(ConnectionRefusedError):
                call_inside(bed.get_namespace(inside), lambda host=host: reach(host))  # type: ignore[misc]
        with pytest.raises(OSError, match="unreachable"):
            call_inside(bed.get_namespace("a"), lambda: reach("192.0.2.1"))


@needs_wire
async def test_a_link_changes_during_a_transfer_and_no_byte_is_lost() -> None:
    async with wired(Link("a", "b", Shape(delay_ms=1, rate_mbit=400))) as (bed, sup):
        sent = os.urandom(8 << 20)
        with await connect(bed, sup, "a", "b") as connection:

            def transfer() -> bytes:
                received = bytearray()
                at = 0
                connection.settimeout(_WAIT_S)
                while len(received) < len(sent):
                    if at < len(sent):
                        at += connection.send(sent[at : at + (1 << 16)])
                    received += connection.recv(1 << 16)
                return bytes(received)

            moving = asyncio.create_task(asyncio.to_thread(transfer))
            for delay_ms, loss in ((8, 0.0), (2, 0.02), (1, 0.0)):
                before = (await bed.read_lanes())[0].packets
                await bed.change("a-b", delay_ms=delay_ms, jitter_ms=delay_ms / 2, loss=loss)
                await wait_for_lanes(bed, lambda lanes, n=before: moving.done() or lanes[0].packets > n + 300)
            assert await moving == sent
        carried = await bed.read_lanes()
        assert all(lane.bytes <= 1500 * lane.packets for lane in carried)  # a rate needs packets one by one
        await bed.change("a-b", delay_ms=30, jitter_ms=0)
        assert [lane.shape.delay_ms for lane in await bed.read_lanes()] == [30, 30]


@needs_wire
async def test_a_change_may_hold_for_one_direction() -> None:
    async with wired(Link("edge", "cloud")) as (bed, _):
        await bed.change("edge-cloud", towards="cloud", delay_ms=40, rate_mbit=5)
        assert [(lane.to, lane.shape.delay_ms) for lane in await bed.read_lanes()] == [("cloud", 40), ("edge", 0)]


@needs_wire
async def test_a_partition_holds_everything_and_heals() -> None:
    async with wired(Link("a", "b", Shape(delay_ms=1))) as (bed, sup):
        with await connect(bed, sup, "a", "b") as connection:
            await asyncio.to_thread(ping_ms, connection)
            await bed.change("a-b", loss=1.0)
            connection.sendall(b"y")
            # The byte and its first retransmission.
            await wait_for_lanes(bed, lambda lanes: sum(lane.lost for lane in lanes) >= 2)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            await bed.change("a-b", loss=0.0)
            connection.settimeout(_WAIT_S)
            assert await asyncio.to_thread(connection.recv, 1) == b"y"


@needs_wire
async def test_bad_changes_are_refused_and_change_nothing() -> None:
    async with wired(Link("a", "b", Shape(delay_ms=5))) as (bed, _):
        for link, towards, values, said in (
            ("a-c", None, {"loss": 0.1}, 'no link "a-c"; expected one of a-b'),
            ("a-b", "c", {"loss": 0.1}, 'does not end at "c"'),
            ("a-b", None, {"delay_ms": 9, "loss": 2.0}, 'loss is "2"; expected a number from 0 to 1'),
            ("a-b", None, {"mtu": 9000}, "expected delay_ms="),
        ):
            with pytest.raises(ChangeRefused, match=said):
                await bed.change(link, towards=towards, **values)
        assert {lane.shape for lane in await bed.read_lanes()} == {Shape(delay_ms=5)}


@needs_wire
async def test_a_second_testbed_of_a_name_is_refused_and_the_first_lives() -> None:
    async with wired(Link("a", "b")) as (bed, sup):
        with pytest.raises(ChildFailed, match="Address already in use"):
            await testbeds.open_testbed(bed.plan, sup)
        assert read_status(bed.plan.name)["name"] == bed.plan.name


@needs_wire
async def test_nothing_is_left_after_the_end() -> None:
    before = find_namespaces()
    async with wired(Link("a", "b"), Link("b", "c")) as (bed, sup):
        with await connect(bed, sup, "a", "c") as connection:
            await asyncio.to_thread(ping_ms, connection)
        name = bed.plan.name
        assert name in find_testbeds()
    assert name not in find_testbeds()
    assert wait_for_none(name) == {}
    assert find_namespaces() <= before
    with pytest.raises(TestbedMissing, match=f"found no testbed '{name}'"):
        await bed.read_lanes()


@needs_wire
def test_a_killed_command_takes_hosts_links_and_processes_with_it(tmp_path: Path) -> None:
    before, name = find_namespaces(), new_name()
    plan = tmp_path / "plan.toml"
    plan.write_text('[[link]]\nbetween = ["a", "b"]\n')
    with started(*_STARLING, "testbed", "up", "--plan", str(plan), "--name", name) as process:
        wait_for_line(process, "is up")
        with started(*_STARLING, "testbed", "exec", "b", "--name", name, "--", "sleep", "600"):
            assert wait_until(lambda: find_namespaces() != before)
            process.kill()
            process.wait(_WAIT_S)
            assert wait_until(lambda: name not in find_testbeds())
            assert wait_for_none(name) == {}
    # Somebody else's process at a host is nobody's to end; the host goes with it.
    assert find_namespaces() <= before


@needs_wire
def test_people_bring_up_show_change_and_end_a_testbed(tmp_path: Path) -> None:
    name = new_name()

    def starling(*words: str) -> subprocess.CompletedProcess[str]:
        words = ("testbed", words[0], "--name", name, *words[1:])
        return subprocess.run((*_STARLING, *words), capture_output=True, text=True, timeout=60, check=False)

    with started(*_STARLING, "testbed", "up", "--name", name) as process:
        try:
            wait_for_line(process, "is up")
            done = starling("set", "edge-cloud", "--delay-ms", "80", "--loss", "0.01")
            assert (done.returncode, done.stderr) == (0, "")
            shown = starling("show", "--json")
            lanes = json.loads(shown.stdout)["links"]
            assert {(lane["delay_ms"], lane["loss"]) for lane in lanes if lane["link"] == "edge-cloud"} == {(80, 0.01)}
            assert "80 ms ± 3 ms, 1 % lost" in starling("show").stdout
            wrong = starling("set", "edge-moon", "--cut")
            assert (wrong.returncode, 'no link "edge-moon"' in wrong.stderr) == (1, True)
            inside = starling("exec", "cloud", "--", "cat", "/proc/net/route")
            assert (inside.returncode, "edge" in inside.stdout) == (0, True)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(_WAIT_S) == 0
    gone = starling("show")
    assert (gone.returncode, f"found no testbed '{name}'" in gone.stderr) == (1, True)


async def test_without_namespaces_a_tcp_delay_stands_in_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # no wire is built beside it
    assert "was not built" in (testbeds.why_no_wire(testbeds.find_program()) or "")
    monkeypatch.undo()
    async with Supervisor() as supervisor:
        plan = TestbedPlan("t", (Link("a", "b", Shape(10, jitter_ms=2)), Link("b", "c", Shape(5))))
        bed = DelayedTestbed(plan, supervisor, "no /dev/net/tun")
        assert bed.what == (
            "TCP delays on this machine, as there are no network namespaces (no /dev/net/tun); "
            "jitter and rate are left out"
        )
        (server,) = await supervisor.start([bed.place("c", echo(bed.get_address("c")))])
        address = await bed.reach("a", "c", Address.parse(server.facts["at"]))
        with socket.create_connection((address.host, address.port), timeout=_WAIT_S) as connection:
            assert await asyncio.to_thread(ping_ms, connection) >= 30
            await bed.change("b-c", delay_ms=40)
            assert bed.plan.links[1].shape == Shape(40)
            connection.settimeout(0.3)
            await bed.change("b-c", loss=1)
            connection.sendall(b"z")
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(connection.recv, 1)
            await bed.change("b-c", loss=0)
            connection.settimeout(_WAIT_S)
            assert await asyncio.to_thread(connection.recv, 1) == b"z"
        with pytest.raises(ChangeRefused, match="a TCP delay shows only"):
            await bed.change("a-b", loss=0.5)
        with pytest.raises(ChangeRefused, match="found no link"):
            await bed.change("a-c", delay_ms=1)


def test_a_plan_that_needs_packets_is_refused_without_them() -> None:
    lossy = TestbedPlan("t", (Link("a", "b", Shape(loss=0.1)),))
    with pytest.raises(WireMissing, match="a-b loses or reorders packets"):
        DelayedTestbed(lossy, Supervisor(), "not root")
    with pytest.raises(WireMissing, match="not root"):
        DelayedTestbed(TestbedPlan("t", (Link("a", "b"),)), Supervisor(), "not root", needs_wire=True)


@needs_wire
def test_a_user_without_rights_is_told_why() -> None:
    command = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all", str(testbeds.find_program()), "--check")
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if "execute" in tried.stderr or "Permission denied" in tried.stderr:
        # The program lies in a folder that only its owner may enter; take one everybody may read.
        pytest.skip("the environment's folder is not readable for others")
    assert tried.returncode == 1
    assert "making a network namespace: Operation not permitted" in tried.stdout


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"no {words!r} before the end")
