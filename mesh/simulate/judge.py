"""What a simulated mesh has to hold: it settles, it does not swing, nobody starves, nothing fails. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mesh.control.estimate import quantile
from mesh.control.simulation import Answer, Change, Simulation
from mesh.simulate.scenarios import Play

WARM_UP_S = 5.0
"""Nothing is known at first; by then every node's latency is."""

SWING = 2.0
"""A share that doubles and halves again has swung; what is less is following."""

_SETTLED = 1.25  # p95 of a second, as a part of what it comes to
_SECOND = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was seen.

    Attributes:
        requests: how many were sent.
        failed_ratio: share of all.
        p50_ms, p95_ms, p99_ms: of those answered after the warm-up.
        settle_s: longest time after a turn until the p95 of a second is what it then stays at.
        swings: most turns of one node's share by `SWING` or more, in a minute, beside those that the scenario makes.
        hungry_s: longest time that a node which serves got nothing.
    """

    requests: int
    failed_ratio: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    settle_s: float
    swings: float
    hungry_s: float


def judge(play: Play, simulation: Simulation) -> Verdict:
    """Returns what a finished simulation held."""
    answers = simulation.answers
    ordered = sorted(a.latency_s for a in answers if a.node and a.at_s >= WARM_UP_S)
    p50_ms, p95_ms, p99_ms = (1e3 * quantile(ordered, q) for q in (0.5, 0.95, 0.99))
    swings = max((count_turns(path) for path in _paths(simulation.changes).values()), default=0)
    minutes = (play.seconds - WARM_UP_S) / 60
    return Verdict(
        requests=len(answers),
        failed_ratio=sum(not a.node for a in answers) / max(1, len(answers)),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
        p99_ms=p99_ms,
        settle_s=_settle_s(play, answers),
        swings=max(0, swings - len(play.turns_s)) / minutes,
        hungry_s=_hungry_s(play, answers),
    )


def count_turns(path: Sequence[float]) -> int:
    """Returns how often a series turns around after having moved by `SWING` or more.

    >>> count_turns([1, 2, 4, 8]), count_turns([1, 4, 1, 4]), count_turns([1, 1.5, 1, 1.5])
    (0, 2, 0)
    """
    turns, direction, extreme = 0, 0, path[0] if path else 0.0
    for value in path:
        if direction == 0 and not 1 / SWING < value / extreme < SWING:
            direction, extreme = (1 if value > extreme else -1), value
        elif direction and (value - extreme) * direction > 0:
            extreme = value
        elif direction and max(value / extreme, extreme / value) >= SWING:
            turns, direction, extreme = turns + 1, -direction, value
    return turns


def p95_by_second(answers: Sequence[Answer], seconds: float) -> list[float]:
    """Returns the p95 of what was asked in each second, in seconds."""
    buckets: list[list[float]] = [[] for _ in range(int(seconds / _SECOND))]
    for answer in answers:
        place = int(answer.at_s / _SECOND)
        if answer.node and place < len(buckets):
            buckets[place].append(answer.latency_s)
    return [quantile(sorted(bucket), 0.95) for bucket in buckets]


def _paths(changes: Sequence[Change]) -> Mapping[str, list[float]]:
    """Returns each node's shares one after the other, while it serves and after the warm-up."""
    paths: dict[str, list[float]] = defaultdict(list)
    for change in changes:
        for name, share in change.shares.items():
            if share > 0 and change.at_s >= WARM_UP_S:
                paths[name].append(share)
    return paths


def _settle_s(play: Play, answers: Sequence[Answer]) -> float:
    by_second = p95_by_second(answers, play.seconds)
    worst_s = 0.0
    for begin_s, end_s in pairwise((*play.turns_s, play.seconds)):
        part = by_second[int(begin_s) : int(end_s)]
        rest = part[len(part) // 2 :]
        bound_s = _SETTLED * quantile(sorted(rest), 0.5)
        late = [place for place, p95_s in enumerate(part) if p95_s > bound_s]
        worst_s = max(worst_s, (late[-1] + 1) * _SECOND if late else 0.0)
    return worst_s


def _hungry_s(play: Play, answers: Sequence[Answer]) -> float:
    newest_s = {node.name: max(WARM_UP_S, node.alive_s[0]) for node in play.nodes}
    worst_s = 0.0
    for at_s, name in sorted((a.at_s, a.node) for a in answers if a.node and a.at_s >= WARM_UP_S):
        worst_s = max(worst_s, at_s - newest_s[name])
        newest_s[name] = at_s
    for node in play.nodes:
        worst_s = max(worst_s, min(play.seconds, node.alive_s[1]) - newest_s[node.name])
    return worst_s
