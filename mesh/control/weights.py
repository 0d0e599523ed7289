"""Endpoint weights from latencies: steep, never zero, steady. Pure, time is an argument.

A weight is proportional to 1 / latency⁴: a tail below 5 % of the requests is what keeps p95 at the near node's
latency, and 1 / latency would send a fifth of them to a node four times as far. The gateway's least-request policy
multiplies by 1 / (1 + requests under way), so this only has to be right on average, and may be slow; frequent changes
would even do harm, because each one makes the gateway begin its rounds anew, and small weights never get their turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mesh.control.latency import Latency
from mesh.endpoint import Health, Tier

WEIGHT_SUM = 1_000_000
"""Weights are parts of this sum, far below Envoy's bound of 2^32."""

PRIOR_SERVICE_S = 0.020
"""Time at a node before anything is known: one detector frame on one core."""

PRIOR_DISTANCE_S: Mapping[Tier, float] = {Tier.EDGE: 0.0, Tier.CLOUD: 0.040}
"""Round trip before anything is known."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides about weights.

    Attributes:
        exponent: how steeply a slow node is avoided.
        floor_part: least share of a node, as a part of an equal share, so that a large mesh does not spend its traffic
            on floors.
        floor_max: most that it is raised to, so that `probes` requests reach it each second.
        probes: see above.
        explore_part: the same as `floor_part` for a node that could be much better than it is: enough to see it
            recover; not for one that fails most of what it gets.
        floors_max: most that all floors may take together.
        interval_s: time between two changes.
        urgent_interval_s: the same when a node has changed by `urgent_ratio` since.
        urgent_ratio: see above.
        hysteresis: a change of all shares by less than this part is none.
        ramp_s, ramp_start: a new node's weight grows to its full size in this time, beginning with this part.
        flip_s: a share that turns around within this time moves half as far.
        gain_min: how little a share moves at least, as a part of its way.
    """

    exponent: float = 4.0
    floor_part: float = 0.015
    floor_max: float = 0.03
    probes: float = 0.6
    explore_part: float = 0.12
    floors_max: float = 0.3
    interval_s: float = 2.0
    urgent_interval_s: float = 0.2
    urgent_ratio: float = 1.5
    hysteresis: float = 0.2
    ramp_s: float = 4.0
    ramp_start: float = 0.1
    flip_s: float = 8.0
    gain_min: float = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """One node to weigh.

    Attributes:
        name: unique.
        latency: what is believed about it.
        health: whether it gets requests.
        age_s: time since it began to serve.
    """

    name: str
    latency: Latency
    health: Health = Health.SERVING
    age_s: float = 1e9


@dataclass(frozen=True, slots=True)
class NodeWeight:
    """The weight of one node and where it comes from.

    Attributes:
        weight: what the gateway gets, >= 1.
        share: of all traffic by weights alone, 0 to 1.
        settled_s: the latency that it was made of.
        health: as the gateway knows it.
        reason: why it changed last, for people.
        changed_s: when that was.
        gain: how far it moves at once, of its way.
        direction: 1 after growing, -1 after shrinking, 0 at first.
    """

    weight: int
    share: float
    settled_s: float
    health: Health
    reason: str
    changed_s: float
    gain: float = 1.0
    direction: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The weights of one pool of nodes, seen from one place.

    Attributes:
        nodes: by name.
        changed_s: when the weights changed last; minus infinity before the first time.
    """

    nodes: Mapping[str, NodeWeight] = field(default_factory=dict)
    changed_s: float = float("-inf")

    @property
    def weights(self) -> dict[str, int]:
        """Returns the weight by name."""
        return {name: node.weight for name, node in self.nodes.items()}


_RULES = Rules()


def weigh(before: Plan, candidates: Sequence[Candidate], rate: float, now_s: float, rules: Rules = _RULES) -> Plan:
    """Returns the weights for now; the very same plan when nothing should change.

    Args:
        before: what the gateways have.
        candidates: every node of the pool, names unique.
        rate: requests per second of the pool; decides how small a share still shows something.
        now_s: now.
        rules: what decides.
    """
    targets = target_shares(candidates, rate, rules)
    if not _is_due(before, candidates, targets, now_s, rules):
        return before
    moved = {c.name: _move(before.nodes.get(c.name), c, targets[c.name], now_s, rules) for c in candidates}
    nodes = _share_out(before, moved, now_s, rules)
    weights = _weights_of({name: node.share for name, node in nodes.items()}, candidates, rate)
    return Plan({name: replace(node, weight=weights[name]) for name, node in nodes.items()}, now_s)


def _share_out(before: Plan, moved: Mapping[str, NodeWeight], now_s: float, rules: Rules) -> dict[str, NodeWeight]:
    """Returns the nodes with shares whose sum is one: those that rest divide what those that move leave to them."""
    total = sum(node.share for node in moved.values()) or 1.0
    resting = {name for name, node in moved.items() if node is before.nodes.get(name) and node.share}
    rest = sum(node.share for name, node in moved.items() if name in resting)  # in the same order every time
    left = 1.0 - (total - rest)
    if left <= 0.0 or not rest:
        return {name: replace(node, share=node.share / total) for name, node in moved.items()}

    def pushed(name: str, node: NodeWeight) -> NodeWeight:
        if name not in resting:
            return node
        share = node.share * left / rest
        if abs(share - node.share) <= rules.hysteresis * max(share, node.share):
            return replace(node, share=share)
        return replace(node, share=share, reason="others changed", changed_s=now_s)

    return {name: pushed(name, node) for name, node in moved.items()}


def _weights_of(shares: Mapping[str, float], candidates: Sequence[Candidate], rate: float) -> dict[str, int]:
    """Returns the weights with which a gateway that divides by 1 + requests under way sends these shares.

    What is under way at a node that does its best is the time it takes and the way to it, not a queue: without this,
    a near node with all the traffic looks busy beside far ones that are idle. What waits beyond that still counts
    against a node at once.
    """
    parts = {c.name: shares[c.name] * (1 + rate * shares[c.name] * _unloaded_s(c.latency)) for c in candidates}
    total = sum(parts.values()) or 1.0
    return {name: max(1, round(WEIGHT_SUM * part / total)) for name, part in parts.items()}


def _unloaded_s(latency: Latency) -> float:
    """Returns the time that a node takes at its best, less and less of it the farther it is from that."""
    return latency.best_s * min(1.0, latency.best_s / latency.settled_s) ** 2


def target_shares(candidates: Sequence[Candidate], rate: float, rules: Rules = _RULES) -> dict[str, float]:
    """Returns the share that each node should have; 0 for those that get nothing.

    >>> near, far = Latency.assume(0.01, 0), Latency.assume(0.04, 0)
    >>> shares = target_shares([Candidate("near", near), Candidate("far", far)], rate=1000)
    >>> {name: round(share, 2) for name, share in shares.items()}
    {'near': 0.99, 'far': 0.01}
    """
    serving = [c for c in candidates if c.health is Health.SERVING]
    shares = dict.fromkeys((c.name for c in candidates), 0.0)
    if not serving:
        return shares
    fastest_s = min(c.latency.settled_s for c in serving)
    raw = {c.name: (fastest_s / c.latency.settled_s) ** rules.exponent * _ramp(c.age_s, rules) for c in serving}
    total = sum(raw.values())
    floor = max(rules.floor_part / len(serving), min(rules.floor_max, rules.probes / max(rate, 1e-9)))
    explore = max(floor, rules.explore_part / len(serving))
    floors = {c.name: explore if c.latency.worsened and not c.latency.fails else floor for c in serving}
    shrink = min(1.0, rules.floors_max / sum(floors.values()))
    # The floors come off the top, so that the sum stays one and nobody falls below its floor.
    rest = 1.0 - shrink * sum(floors.values())
    shares.update({name: shrink * floors[name] + rest * value / total for name, value in raw.items()})
    return shares


def _is_due(
    before: Plan, candidates: Sequence[Candidate], targets: Mapping[str, float], now_s: float, rules: Rules
) -> bool:
    if {c.name: c.health for c in candidates} != {name: node.health for name, node in before.nodes.items()}:
        return True
    serving = [(c, before.nodes[c.name]) for c in candidates if c.health is Health.SERVING]
    waited_s = now_s - before.changed_s
    if waited_s < rules.urgent_interval_s:
        return False
    changes = [abs(targets[c.name] - node.share) / max(node.share, targets[c.name]) for c, node in serving]
    if max(changes, default=0.0) <= rules.hysteresis:
        return False
    if waited_s >= rules.interval_s:
        return True
    return any(_is_urgent(node, c, targets[c.name], now_s, rules) for c, node in serving)


def _is_urgent(before: NodeWeight, candidate: Candidate, target: float, now_s: float, rules: Rules) -> bool:
    """Returns whether a node has changed too much to wait, or all others have; one that swings is not urgent."""
    ratio = max(
        _ratio(candidate.latency.settled_s, before.settled_s), _ratio(target, before.share) ** (1 / rules.exponent)
    )
    return _gain(before, now_s, rules) == 1.0 and ratio > rules.urgent_ratio


def _ratio(one: float, other: float) -> float:
    return max(one, other) / max(min(one, other), 1e-12)


def _move(before: NodeWeight | None, candidate: Candidate, target: float, now_s: float, rules: Rules) -> NodeWeight:
    """Returns the node's next entry; shares do not sum to one yet."""
    settled_s, health = candidate.latency.settled_s, candidate.health
    if before is None:
        return NodeWeight(1, target, settled_s, health, f"joined, expected {_ms(settled_s)}", now_s)
    if health is not Health.SERVING:
        reason = before.reason if before.health is health else _LEFT[health]
        changed_s = before.changed_s if before.health is health else now_s
        return NodeWeight(1, 0.0, settled_s, health, reason, changed_s)
    if before.health is not Health.SERVING:
        return NodeWeight(1, target, settled_s, health, "serves again", now_s)
    change = target / before.share if before.share else float("inf")
    if 1 - rules.hysteresis < change < 1 / (1 - rules.hysteresis):
        return replace(before, share=target, settled_s=settled_s)
    if now_s - before.changed_s < rules.interval_s and not _is_urgent(before, candidate, target, now_s, rules):
        return before  # another node was urgent; among hundreds there is always one
    direction = 1 if change > 1 else -1
    flipped = direction == -before.direction and now_s - before.changed_s < rules.flip_s
    gain = max(rules.gain_min, before.gain / 2) if flipped else min(1.0, 1.5 * _gain(before, now_s, rules))
    share = before.share ** (1 - gain) * target**gain
    return NodeWeight(1, share, settled_s, health, _explain(before, candidate, rules), now_s, gain, direction)


_LEFT = {Health.DRAINING: "drains", Health.SILENT: "is silent"}


def _explain(before: NodeWeight, candidate: Candidate, rules: Rules) -> str:
    if candidate.latency.fails:
        return f"fails {candidate.latency.failed_ratio:.0%} of its requests"
    ratio = candidate.latency.settled_s / before.settled_s
    if ratio > 1.1 or ratio < 1 / 1.1:
        word = "slower" if ratio > 1 else "faster"
        return f"{word}, {_ms(before.settled_s)} → {_ms(candidate.latency.settled_s)}"
    return "warms up" if candidate.age_s < rules.ramp_s + rules.interval_s else "others changed"


def _gain(before: NodeWeight, now_s: float, rules: Rules) -> float:
    """Returns how far a node moves; what has rested is free again."""
    return 1.0 if now_s - before.changed_s >= rules.flip_s else before.gain


def _ramp(age_s: float, rules: Rules) -> float:
    return min(1.0, rules.ramp_start + (1 - rules.ramp_start) * max(0.0, age_s) / rules.ramp_s)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
