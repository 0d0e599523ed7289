"""One table of all faults."""

from __future__ import annotations

from mesh.bench.faults.gateway_fault import measure_gateway
from mesh.bench.faults.node_faults import measure_nodes
from mesh.bench.faults.tenant_fault import measure_tenant
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import Rig


async def run(rig: Rig) -> Result:
    """Breaks what can break under load: nodes, control plane, gateway; a tenant at 50 times its rate."""
    rows: list[Row] = []
    bars: list[Bar] = []
    for name, measure in (("nodes", measure_nodes), ("gateway", measure_gateway), ("tenant", measure_tenant)):
        folder = rig.folder / name
        folder.mkdir()
        found, held = await measure(folder)
        rows += found
        bars += held
    return Result(
        name="faults",
        rows=rows,
        bars=bars,
        notes=(
            "nodes answer after a set time without computing; latencies count from when a request was to be sent",
            "failed: what callers were told; of a tenant over its rate that is TENANT_OVER_RATE",
        ),
    )
