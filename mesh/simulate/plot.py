"""One picture of a simulated scenario: who answers, how long it takes, and where the weights go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mesh.control.simulation import Simulation
from mesh.errors import MeshError
from mesh.simulate.scenarios import Play

_STEP_S = 0.5
_PAPER, _INK, _FAINT = "#181818", "#ebebeb", "#4a4a4a"
_COLOURS = {"edge": "#4fb3a5", "cloud": "#6f8fd8", "slow": "#e0a84f", "lost": "#d86f6f"}
_QUANTILES = {0.5: "#4fb3a5", 0.95: "#e0a84f", 0.99: "#d86f6f"}
_INCHES, _DPI = (11, 8.5), 120

_Series = NDArray[np.float64]


def write_plot(path: Path, title: str, play: Play, simulation: Simulation) -> None:
    """Writes a PNG of a finished simulation.

    Raises:
        MeshError: the file cannot be written.
    """
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor=_PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=_INK, fontsize=12, x=0.01, ha="left")
    rates, latencies, weights = figure.subplots(3, 1, sharex=True)
    _draw_rates(rates, play, simulation)
    _draw_latencies(latencies, play, simulation)
    _draw_weights(weights, play, simulation)
    for axes in (rates, latencies, weights):
        _style(axes, play)
    weights.set_xlabel("seconds", color=_INK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, facecolor=_PAPER)
    except OSError as error:
        raise MeshError(f"cannot write {path}: {error.strerror}; give another --out") from error


def _draw_rates(axes: Axes, play: Play, simulation: Simulation) -> None:
    times_s = _times(play)
    counts: dict[str, _Series] = defaultdict(lambda: np.zeros(len(times_s)))
    for answer in simulation.answers:
        place = int(answer.at_s / _STEP_S)
        if place < len(times_s) and answer.node:
            counts[_group(answer.node)][place] += 1 / _STEP_S
    groups = _groups(play)
    axes.stackplot(
        times_s, [counts[group] for group in groups], labels=groups, colors=[_COLOURS[g] for g in groups], alpha=0.85
    )
    axes.set_ylabel("answers a second", color=_INK)
    axes.set_ylim(bottom=0)


def _draw_latencies(axes: Axes, play: Play, simulation: Simulation) -> None:
    times_s = _times(play)
    buckets: list[list[float]] = [[] for _ in times_s]
    for answer in simulation.answers:
        place = int(answer.at_s / _STEP_S)
        if place < len(buckets) and answer.node:
            buckets[place].append(1e3 * answer.latency_s)
    for q, colour in _QUANTILES.items():
        line = [float(np.quantile(bucket, q)) if bucket else np.nan for bucket in buckets]
        axes.plot(times_s, line, color=colour, label=f"p{100 * q:.0f}", linewidth=1.6)
    axes.set_ylabel("latency, ms", color=_INK)
    axes.set_ylim(bottom=0)


def _draw_weights(axes: Axes, play: Play, simulation: Simulation) -> None:
    """Draws the share that weights give each group, a step at each change."""
    sizes = {group: max(1, sum(_group(node.name) == group for node in play.nodes)) for group in _groups(play)}
    times_s = [change.at_s for change in simulation.changes]
    for group, size in sizes.items():
        shares = [_sum_of(change.shares, group) for change in simulation.changes]
        label = f"{group}, {size} nodes"
        axes.step(
            [*times_s, play.seconds],
            [*shares, shares[-1]],
            where="post",
            color=_COLOURS[group],
            label=label,
            linewidth=1.6,
        )
    axes.set_ylabel("share by weights, %", color=_INK)
    axes.set_ylim(0, 102)


def _style(axes: Axes, play: Play) -> None:
    axes.set_facecolor(_PAPER)
    axes.set_xlim(0, play.seconds)
    axes.tick_params(colors=_INK)
    axes.grid(color=_FAINT, linewidth=0.5, alpha=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)
    for turn_s in play.turns_s:
        axes.axvline(turn_s, color=_INK, linewidth=1, linestyle=(0, (4, 4)), alpha=0.7)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=_INK, borderaxespad=0.2)


def _times(play: Play) -> _Series:
    return np.arange(0.0, play.seconds, _STEP_S)


def _groups(play: Play) -> list[str]:
    return list(dict.fromkeys(_group(node.name) for node in play.nodes))


def _group(node: str) -> str:
    return node.rpartition("-")[0]


def _sum_of(shares: Mapping[str, float], group: str) -> float:
    found: Sequence[float] = [share for name, share in shares.items() if _group(name) == group]
    return 100 * sum(found)
