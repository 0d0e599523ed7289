"""The Open Inference Protocol on one core: a node by both of its wire formats, Triton, and MLServer."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.assets import get_repository
from mesh.bench.locked_packages import NotAvailable
from mesh.bench.mlserver import start_mlserver
from mesh.bench.oip import MODEL_INFER, read_infer_response
from mesh.bench.repositories import write_identity
from mesh.bench.requests import make_frames, write_oip_request, write_request
from mesh.bench.result import Bar, Result, Row
from mesh.bench.rig import BenchFailed, Load, Rig
from mesh.bench.target import Target, describe_loads, describe_rates
from mesh.bench.triton import embedder_model, ensure_triton, identity_model, start_triton

_PREDICT, _INFER, _TRITON, _MLSERVER = "Predict", "ModelInfer", "Triton", "MLServer"
_EMBEDDER = "mobilenetv2-int8"
_SMALL, _LARGE = 64, 37_632  # floats: 256 bytes, and the 150 KB of a picture of 224 x 224
_SIDE = 224
_OUTSTANDING = (1, 16, 64)
_ROUNDS = 5
_SECONDS = 0.6
# A hundred and fifty pictures a second: a p99 needs more of them than of echoes.
_PICTURE_SECONDS = 2.0
# Some fifty requests a second at most: one round says enough, and a longer one is needed to see any.
_SLOW_SECONDS = 2.0
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class _Work:
    """One model and one request for it."""

    label: str
    model: str
    inputs: Mapping[str, NDArray[Any]]


_Loads = dict[tuple[str, str, int], list[Load]]


async def run(rig: Rig) -> Result:
    """Measures Open Inference requests per second and latency beside Triton and MLServer, and Predict's."""
    published = get_repository(os.environ)
    graph = published / _EMBEDDER / "1" / "model.onnx"
    works = _works()
    targets = await _start_ours(rig, works, published)
    notes = [
        f"medians of {_ROUNDS} rounds of {_SECONDS:g} s, pictures {_PICTURE_SECONDS:g} s; "
        "server on one core, C++ load generator on another;",
        "ratios are medians of the rounds' own, in which servers take turns: what the machine does besides meets both;",
        "Predict and ModelInfer are wire formats of one node; ModelInfer, Triton and MLServer get the same bytes;",
        "MobileNetV2 INT8 (an embedding: without its classifier) with pictures of 224 x 224, 150 KB",
    ]
    try:
        triton = await _start_triton(rig, works, graph)
        await _check_same_answers(rig, works, targets[1], triton)
        targets.append(triton)
        notes.append("Triton: its Python backend, the only one in its package, with the same graph by OpenVINO")
    except NotAvailable as error:
        notes.append(f"Triton not measured: {error}")
    try:
        targets.append(await _start_mlserver(rig, works, graph))
        await _check_same_answers(rig, works, targets[1], targets[-1])
        notes.append(f"MLServer: a runtime of ours with the same graph by OpenVINO; one round of {_SLOW_SECONDS:g} s")
    except NotAvailable as error:
        notes.append(f"MLServer not measured: {error}")
    loads: _Loads = {}
    bare: list[float] = []
    for number in range(_ROUNDS):
        for work in works:
            for outstanding in _OUTSTANDING:
                for target in targets:
                    if number == 0 or target.name != _MLSERVER:
                        seconds = _seconds(target, work)
                        load = await target.load(rig, work.label, outstanding=outstanding, seconds=seconds, notes=notes)
                        loads.setdefault((target.name, work.label, outstanding), []).append(load)
        bare.append(await _run_bare(rig, graph))
    return Result(name="open_inference", rows=_rows(loads, works, bare), bars=_bars(loads, works, bare), notes=notes)


def _works() -> tuple[_Work, ...]:
    def echo(floats: int) -> Mapping[str, NDArray[Any]]:
        return {"x": np.arange(floats, dtype=np.float32)[None]}

    return (
        _Work("64 floats", f"identity{_SMALL}", echo(_SMALL)),
        _Work("150 KB", f"identity{_LARGE}", echo(_LARGE)),
        _Work("MobileNetV2", _EMBEDDER, make_frames(1, _SIDE, _SIDE)),
    )


async def _start_ours(rig: Rig, works: Sequence[_Work], published: Path) -> list[Target]:
    repository = rig.folder / "models"
    shutil.copytree(published / _EMBEDDER, repository / _EMBEDDER)
    for floats in (_SMALL, _LARGE):
        write_identity(repository, f"identity{floats}", floats, rows_max=64)
    node = await rig.start_node(repository)
    predict = {
        work.label: write_request(rig.folder / f"{work.model}.predict", work.model, work.inputs) for work in works
    }
    return [
        Target(_PREDICT, node, predict),
        Target(_INFER, node, _write_oip(rig, works), MODEL_INFER),
    ]


def _write_oip(rig: Rig, works: Sequence[_Work]) -> dict[str, Path]:
    return {work.label: write_oip_request(rig.folder / f"{work.model}.oip", work.model, work.inputs) for work in works}


async def _start_triton(rig: Rig, works: Sequence[_Work], graph: Path) -> Target:
    package = await ensure_triton(rig.console)
    models = [identity_model(_SMALL), identity_model(_LARGE), embedder_model(graph)]
    child = await start_triton(rig, package, models)
    return Target(_TRITON, child, _write_oip(rig, works), MODEL_INFER, restarts=True)


async def _start_mlserver(rig: Rig, works: Sequence[_Work], graph: Path) -> Target:
    child = await start_mlserver(rig, {f"identity{_SMALL}": None, f"identity{_LARGE}": None, _EMBEDDER: graph})
    return Target(_MLSERVER, child, _write_oip(rig, works), MODEL_INFER)


async def _check_same_answers(rig: Rig, works: Sequence[_Work], ours: Target, theirs: Target) -> None:
    """Checks that two servers answer alike, so that neither is quick by answering nothing.

    Raises:
        BenchFailed: they do not.
    """
    for work in works:
        expected, found = [
            read_infer_response(await rig.call(one.child, one.requests[work.label], one.method))
            for one in (ours, theirs)
        ]
        alike = expected.keys() == found.keys() and all(
            found[name].shape == array.shape and np.allclose(found[name], array, atol=_TOLERANCE)
            for name, array in expected.items()
        )
        if not alike:
            raise BenchFailed(
                f"{theirs.name} answers {work.label} otherwise than {ours.name}; figures would mean nothing"
            )


def _seconds(target: Target, work: _Work) -> float:
    """Returns how long a round is."""
    if target.name == _MLSERVER:
        return _SLOW_SECONDS
    return _PICTURE_SECONDS if work.model == _EMBEDDER else _SECONDS


async def _run_bare(rig: Rig, graph: Path) -> float:
    """Returns pictures per second of the engine alone."""
    command = (sys.executable, "-P", "-m", "engines.bare_loop", "--model", str(graph))
    shape = f"--shape=1,{_SIDE},{_SIDE},3"
    loop = await rig.run_json(*command, shape, f"--seconds={_PICTURE_SECONDS}", core=rig.server_core, timeout_s=60)
    return float(loop["rows_per_s"])


def _rows(loads: _Loads, works: Sequence[_Work], bare: Sequence[float]) -> list[Row]:
    table: list[Row] = []
    for work in works:
        for outstanding in _OUTSTANDING:
            for (name, label, calls), runs in loads.items():
                if (label, calls) == (work.label, outstanding):
                    table.append({"request": label, "calls": calls, "server": name, **describe_loads(runs)})
    loop = describe_rates(bare)
    return [*table, {"request": works[-1].label, "calls": "", "server": "bare engine loop", **loop}]


def _bars(loads: _Loads, works: Sequence[_Work], bare: Sequence[float]) -> list[Bar]:
    def rps(name: str, work: _Work, outstanding: int = 64) -> list[float]:
        return [run.rps for run in loads[name, work.label, outstanding]]

    def p99_us(name: str, work: _Work, outstanding: int) -> list[float]:
        return [run.p99_us for run in loads[name, work.label, outstanding]]

    def against(name: str, work: _Work) -> float:
        return _ratio(rps(_INFER, work), rps(name, work))

    small, large, picture = works
    bars = []
    if (_TRITON, small.label, 64) in loads:
        worst = max(_ratio(p99_us(_INFER, work, n), p99_us(_TRITON, work, n)) for work in works for n in _OUTSTANDING)
        bars += [
            Bar("requests/s / Triton's, 64 floats, 64 outstanding", 5, against(_TRITON, small)),
            Bar("requests/s / Triton's, 150 KB, 64 outstanding", 2, against(_TRITON, large)),
            Bar("requests/s / Triton's, MobileNetV2 INT8, 64 outstanding", 1, against(_TRITON, picture)),
            Bar("p99 / Triton's, the worst of all points", 1, worst, at_most=True),
        ]
    if (_MLSERVER, small.label, 64) in loads:
        bars.append(Bar("requests/s / MLServer's, 64 floats, 64 outstanding", 5, against(_MLSERVER, small)))
    same = [_ratio(rps(_INFER, work, n), rps(_PREDICT, work, n)) for work in works for n in _OUTSTANDING]
    return [
        *bars,
        Bar("MobileNetV2 INT8 pictures/s / the bare engine loop", 0.9, _ratio(rps(_INFER, picture), bare)),
        Bar("requests/s of ModelInfer / Predict's, median of all points", 0.9, median(same)),
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median of the rounds' own ratios; of a server measured once, its only round counts."""
    return median(a / b for a, b in zip(ours, theirs, strict=False))
