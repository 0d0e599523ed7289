"""Which models there are, and where their calls go: what nodes have, and what an operator wants. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.errors import InvalidRoute
from mesh.gateway import ModelRoute, Pool, Share, serves_model, serves_version

LABELS_MAX = 16
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_MODEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_POOLS: dict[int, Pool] = {
    pb.AFFINITY_UNSPECIFIED: Pool.NODES,
    pb.AFFINITY_AGENT: Pool.AGENTS,
    pb.AFFINITY_SEQUENCE: Pool.SEQUENCES,
}


@dataclass(frozen=True, slots=True)
class Label:
    """A name for a version.

    Attributes:
        name: such as `stable`.
        version: which it stands for.
        percent: share of the calls that name neither version nor label, 0 to 100.
    """

    name: str
    version: int
    percent: float = 0.0


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """What an operator wants of the calls for one model: labels whose shares sum to 100 or are all 0.

    Raises:
        InvalidRoute: it cannot be; says why.
    """

    model: str
    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        """Refuses what cannot be."""
        if not _MODEL.fullmatch(self.model):
            raise InvalidRoute(f"{self.model!r} is no model's name; name the model as in its repository")
        if not 1 <= len(self.labels) <= LABELS_MAX:
            raise InvalidRoute(f"the route of {self.model} has {len(self.labels)} labels; expected 1 to {LABELS_MAX}")
        names = [label.name for label in self.labels]
        for label in self.labels:
            if not _LABEL.fullmatch(label.name):
                raise InvalidRoute(f"{label.name!r} is no label; expected lower-case letters, digits and `-`")
            if names.count(label.name) > 1:
                raise InvalidRoute(f"label {label.name} is given twice; labels of a model have different names")
            if label.version < 1:
                raise InvalidRoute(f"label {label.name} is version {label.version}; expected >= 1")
            if not 0 <= label.percent <= 100:
                raise InvalidRoute(f"label {label.name} has {label.percent:g} %; expected 0 to 100")
        total = sum(label.percent for label in self.labels)
        if total and not math.isclose(total, 100, abs_tol=0.01):
            raise InvalidRoute(f"the shares of {self.model} sum to {total:g} %; expected 100, or none at all")


@dataclass(slots=True)
class Found:
    """What nodes have of one model.

    Attributes:
        versions: that some node has, ready or not, also nodes that are away.
        ready: those that some node runs which is not.
        affinity: the strongest that some node asks for.
    """

    versions: set[int] = field(default_factory=set)
    ready: set[int] = field(default_factory=set)
    affinity: int = pb.AFFINITY_UNSPECIFIED


def read_serves(models: Iterable[Any]) -> tuple[str, ...]:
    """Returns what a node answers for, as routes ask for it: its ready models, and their versions."""
    ready = [model for model in models if model.ready]
    words = {serves_model(model.name) for model in ready}
    return tuple(sorted(words | {serves_version(model.name, model.version) for model in ready}))


def find_models(nodes: Iterable[tuple[Sequence[Any], bool]]) -> dict[str, Found]:
    """Returns what there is of each model.

    Args:
        nodes: the `NodeModel`s of each node, and whether it gets calls now.
    """
    found: dict[str, Found] = {}
    for models, serves in nodes:
        for model in models:
            entry = found.setdefault(model.name, Found())
            entry.versions.add(model.version)
            if model.ready and serves:
                entry.ready.add(model.version)
            entry.affinity = max(entry.affinity, model.affinity)
    return found


def build_routes(found: Mapping[str, Found], plans: Mapping[str, RoutePlan]) -> tuple[ModelRoute, ...]:
    """Returns where the calls for each model go."""
    return tuple(_build_route(name, entry, plans.get(name)) for name, entry in sorted(found.items()))


def find_route_alarms(found: Mapping[str, Found], plans: Mapping[str, RoutePlan]) -> Iterator[str]:
    """Yields what cannot be done as it is wanted, one sentence each."""
    for name, plan in sorted(plans.items()):
        ready = found[name].ready if name in found else set()
        for label in plan.labels:
            if label.version not in ready:
                share = f"; its {label.percent:g} % go to the other labels" if label.percent else ""
                yield f"label {label.name} of {name} is version {label.version}, which no node runs{share}"


def _build_route(name: str, found: Found, plan: RoutePlan | None) -> ModelRoute:
    pool, versions = _POOLS.get(found.affinity, Pool.NODES), tuple(sorted(found.versions))
    if plan is None:
        return ModelRoute(name, pool, versions)
    labels = {label.name: label.version for label in plan.labels if label.version in found.versions}
    able = [label for label in plan.labels if label.version in found.ready]
    total = sum(label.percent for label in able)
    shares = tuple(Share(label.version, 100 * label.percent / total) for label in able if label.percent)
    return ModelRoute(name, pool, versions, labels, shares)
