"""Which frames of a run are worth showing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mesh.demo.outcome import Outcome, Verdict


def choose_samples(outcomes: Sequence[Outcome], count: int) -> list[Outcome]:
    """Returns up to `count` answered frames that show the run, in the order of time.

    They are spread over the run: one per equal part of it, where there is one. In each part the node, then the agent
    that was shown least so far comes first, so that rare nodes are seen too; then the frame with the most detections.
    """
    answered = [o for o in outcomes if o.verdict is Verdict.ANSWERED]
    pool = [o for o in answered if o.detections] or answered
    if not pool or count < 1:
        return []
    pool.sort(key=lambda o: (o.due_s, o.agent))
    nodes_shown: Counter[str] = Counter()
    agents_shown: Counter[int] = Counter()
    chosen: list[Outcome] = []
    parts = min(count, len(pool))
    for part in range(parts):
        some = pool[part * len(pool) // parts : (part + 1) * len(pool) // parts]
        best = min(
            some,
            key=lambda o: (nodes_shown[o.node], agents_shown[o.agent], -len(o.detections)),
        )
        nodes_shown[best.node] += 1
        agents_shown[best.agent] += 1
        chosen.append(best)
    return chosen
