"""What security costs a request: the same mesh with and without certificates, tokens, rights and limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from mesh.bench.requests import ECHO_FLOATS, write_echo_repository
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import Rig
from mesh.certs import Scope
from mesh.gateway.security import Rate
from mesh.local_mesh import LocalMesh, MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.client import Client, Tls
from services.host import Address

_ROUNDS = 5
_REQUESTS = 400
_WARM_UP = 50
_ADDED_MS_MAX = 0.5
_RATE = Rate(per_s=100_000, burst=100_000)  # counted, and never in the way
_PLAIN, _SECURE, _FRESH = "plain text", "secure", "secure, a new token each time"


async def run(rig: Rig) -> Result:
    """Measures the round trip of small requests through a gateway, plain and secure, taking turns."""
    repository = write_echo_repository(rig.folder)
    async with Supervisor() as supervisor:
        plain = await start_mesh(supervisor, _plan(repository, rig.folder / "plain", None))
        async with Supervisor() as others:
            secure = await start_mesh(others, _plan(repository, rig.folder / "secure", rig.folder / "certs"))
            return await asyncio.to_thread(_measure, plain, secure)


def _plan(repository: Path, folder: Path, certs: Path | None) -> MeshPlan:
    return MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=repository,
        models=("echo",),
        edges=1,
        clouds=0,
        rtt_ms=0,
        run_dir=folder,
        certs=certs,
        rate=_RATE,
    )


def _measure(plain: LocalMesh, secure: LocalMesh) -> Result:
    assert secure.security is not None, "it was started with certificates"
    store = secure.security.store
    folder = store.root / "agent" / "agent"
    tls = Tls(ca=folder / "ca.crt", cert=folder / "tls.crt", key=folder / "tls.key")

    def sign(serial: int) -> str:
        now, hour = datetime.now(UTC), timedelta(hours=1)
        return store.sign_token(subject=f"bench-{serial}", tenant="bench", scopes=[Scope.INFER], now=now, lifetime=hour)

    tokens = iter([sign(serial) for serial in range(_ROUNDS * (_REQUESTS + _WARM_UP))])
    lasting = sign(-1)
    times: dict[str, list[list[float]]] = {_PLAIN: [], _SECURE: [], _FRESH: []}
    with (
        Client(str(plain.gateway)) as open_client,
        Client(str(secure.gateway), tls=replace(tls, token=lambda: lasting)) as same,
        Client(str(secure.gateway), tls=replace(tls, token=lambda: next(tokens))) as fresh,
    ):
        for _ in range(_ROUNDS):
            for name, client in ((_PLAIN, open_client), (_SECURE, same), (_FRESH, fresh)):
                times[name].append(_time(client))
    rows: list[Row] = [
        {
            "gateway": name,
            "p50 ms": median(median(times_ms) for times_ms in rounds),
            "min": min(median(times_ms) for times_ms in rounds),
            "max": max(median(times_ms) for times_ms in rounds),
            "p99 ms": median(quantiles(times_ms, n=100)[98] for times_ms in rounds),
        }
        for name, rounds in times.items()
    ]
    # Of each round by itself: this machine's speed changes from one round to the next.
    added_ms = median(median(s) - median(p) for s, p in zip(times[_SECURE], times[_PLAIN], strict=True))
    return Result(
        name="security",
        rows=rows,
        bars=(Bar("p50 above the plain gateway, ms", _ADDED_MS_MAX, added_ms, at_most=True),),
        notes=(
            f"one Python client, one request after the other, 64 floats; {_ROUNDS} rounds of {_REQUESTS} taking turns",
            "secure: mTLS on both sides of the gateway, an ES256 token, rights, a rate per tenant",
        ),
    )


def _time(client: Client) -> list[float]:
    """Returns the round trips of a round in ms, after a few that only warm up."""
    inputs = {"x": np.zeros((1, ECHO_FLOATS), np.float32)}
    times_ms = []
    for _ in range(_WARM_UP + _REQUESTS):
        start_s = time.perf_counter()
        client.predict("echo", inputs, deadline_s=5)
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    return times_ms[_WARM_UP:]
