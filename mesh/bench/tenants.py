"""Two tenants at twice the capacity, one ten times as chatty: what the quiet one keeps."""

from __future__ import annotations

import os
from statistics import median

from mesh.assets import get_repository
from mesh.bench.requests import write_frame_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import Rig
from mesh.bench.traces import merge, poisson, write_trace

_MODEL = "nanodet"
_SIDE = 416
_DEADLINE_S = 0.1
_SECONDS = 10.0
_OVERLOAD = 2.0
_CHATTY_TIMES = 10
_SEEDS = (3, 13, 23)  # of the rounds


async def run(rig: Rig) -> Result:
    """Measures the quiet tenant alone and beside a tenant with ten times its rate, at twice the capacity."""
    request = write_frame_request(rig.folder, _MODEL, _SIDE, _SIDE)
    node = await rig.start_node(get_repository(os.environ), _MODEL)
    rows: list[Row] = []
    kept: list[float] = []
    for seed in _SEEDS:
        capacity = (await rig.load(node, request, outstanding=3, seconds=2.0)).rps
        quiet_rate = capacity * _OVERLOAD / (1 + _CHATTY_TIMES)
        quiet = poisson(quiet_rate, _SECONDS, _DEADLINE_S, seed=seed, tenant=1)
        chatty = poisson(quiet_rate * _CHATTY_TIMES, _SECONDS, _DEADLINE_S, seed=seed + 1, tenant=2)
        shares = {}
        for name, trace in (("alone", quiet), ("beside the chatty one", merge(quiet, chatty))):
            outcome = await rig.replay(node, request, write_trace(rig.folder / "trace", trace), seconds=_SECONDS)
            for tenant, counts in outcome["tenants"].items():
                who = "quiet" if tenant == "1" else "chatty"
                shares[name, who] = counts["met"] / counts["sent"]
                rows.append(
                    {
                        "frames/s of capacity": capacity,
                        "tenant": f"{who} {name}" if who == "quiet" else who,
                        "sent": counts["sent"],
                        "met": counts["met"],
                        "share": shares[name, who],
                    }
                )
        kept.append(shares["beside the chatty one", "quiet"] / shares["alone", "quiet"])
    return Result(
        name="tenants",
        rows=rows,
        bars=(
            Bar(
                "quiet tenant's goodput beside a chatty one / alone",
                0.95,
                median(kept),
            ),
        ),
        notes=(f"{_MODEL}; the bar is the median of rounds; the tenant is the header x-tenant",),
    )
