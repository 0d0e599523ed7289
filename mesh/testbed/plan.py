"""Which hosts a testbed has and how they are linked: values, checks, addresses and routes."""

from __future__ import annotations

import re
import tomllib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Address
from itertools import pairwise
from pathlib import Path
from typing import Any

from mesh.testbed.errors import BadPlan

HOSTS_MAX = 64
_FIRST_ADDRESS = IPv4Address("10.77.0.1")  # private, and seen by nobody but the hosts themselves
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,14}")  # an interface is called after the host it leads to
_TESTBED_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_HIGHEST = {"delay_ms": 60_000.0, "jitter_ms": 60_000.0, "loss": 1.0, "rate_mbit": 1e6, "reorder": 1.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link does to packets, each way.

    Attributes:
        delay_ms: time from host to host.
        jitter_ms: how far a packet's own time is off it at most, either way.
        loss: share of packets that are lost, 0 to 1; 1 is a partition.
        rate_mbit: line rate in Mbit/s; 0 means no limit.
        reorder: share of packets that may overtake, by at most twice the jitter; 0 keeps order.
        buffer_ms: longest time that a packet waits for the line; what would wait longer is dropped.

    >>> str(Shape(delay_ms=20, jitter_ms=3, loss=0.01))
    '20 ms ± 3 ms, 1 % lost'
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_mbit: float = 0.0
    reorder: float = 0.0
    buffer_ms: float = 200.0

    def problems(self) -> Iterator[str]:
        """Yields what is out of range."""
        for each in fields(self):
            value = getattr(self, each.name)
            highest = _HIGHEST.get(each.name, 60_000.0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
                yield f"{each.name} is {value!r}, expected a number from 0 to {highest:g}"

    def to_words(self) -> tuple[str, ...]:
        """Returns `key=value` for each value, as the wire reads them."""
        return tuple(f"{each.name}={getattr(self, each.name):.10g}" for each in fields(self))

    def __str__(self) -> str:
        """Returns the shape for people; what is not there is not named."""
        if self.loss >= 1:
            return "cut"
        parts = [f"{self.delay_ms:g} ms" + (f" ± {self.jitter_ms:g} ms" if self.jitter_ms else "")]
        parts += [f"{self.loss * 100:g} % lost"] if self.loss else []
        parts += [f"{self.rate_mbit:g} Mbit/s"] if self.rate_mbit else []
        parts += [f"{self.reorder * 100:g} % reordered"] if self.reorder else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Link:
    """A link between two hosts.

    Attributes:
        a, b: names of the hosts.
        shape: what it does to packets, both ways.
    """

    a: str
    b: str
    shape: Shape = field(default_factory=Shape)

    @property
    def name(self) -> str:
        """What people and commands call it, such as `gateway-cloud-1`."""
        return f"{self.a}-{self.b}"


@dataclass(frozen=True, slots=True)
class Route:
    """At `host`, packets to host `to` leave by the link to `via`."""

    host: str
    to: str
    via: str


@dataclass(frozen=True, slots=True)
class TestbedPlan:
    """The hosts of a testbed and their links.

    Attributes:
        name: what commands call it; one testbed of a name runs at a time.
        links: the hosts are those that are linked, in the order of their first link.
        seed: decides losses and jitter.
    """

    __test__ = False  # not a test, whatever its name begins with
    name: str
    links: tuple[Link, ...]
    seed: int = 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts."""
        return tuple(dict.fromkeys(host for link in self.links for host in (link.a, link.b)))

    def get_address(self, host: str) -> str:
        """Returns the IPv4 address of a host, the same on all of its links."""
        return str(_FIRST_ADDRESS + self.hosts.index(host))

    def check(self) -> TestbedPlan:
        """Returns itself if it can be.

        Raises:
            BadPlan: names everything that contradicts.
        """
        problems = list(self._problems())
        if problems:
            raise BadPlan(problems)
        return self

    def get_routes(self) -> tuple[Route, ...]:
        """Returns how every host reaches every other: by the fewest links, of these by the least delay."""
        routes = []
        for host in self.hosts:
            routes += [Route(host, to, path[0]) for to, path in self._find_paths(host).items() if to != host]
        return tuple(routes)

    def get_path(self, origin: str, to: str) -> tuple[Link, ...]:
        """Returns the links between two hosts, in order."""
        stops = (origin, *self._find_paths(origin)[to])
        return tuple(self._get_link(a, b) for a, b in pairwise(stops))

    def to_statements(self) -> tuple[str, ...]:
        """Returns the plan as the wire's command line takes it."""
        hosts = [f"host {host} {self.get_address(host)}" for host in self.hosts]
        links = [" ".join(("link", link.name, link.a, link.b, *link.shape.to_words())) for link in self.links]
        routes = [f"route {route.host} {route.to} {route.via}" for route in self.get_routes()]
        return (*hosts, *links, *routes)

    def _get_link(self, a: str, b: str) -> Link:
        return next(link for link in self.links if {link.a, link.b} == {a, b})

    def _find_paths(self, origin: str) -> dict[str, tuple[str, ...]]:
        """Returns the stops after `origin` on the way to each host that can be reached."""
        neighbours: dict[str, list[tuple[float, str]]] = {host: [] for host in self.hosts}
        for link in self.links:
            neighbours[link.a].append((link.shape.delay_ms, link.b))
            neighbours[link.b].append((link.shape.delay_ms, link.a))
        paths: dict[str, tuple[str, ...]] = {origin: ()}
        delay_ms = {origin: 0.0}
        waiting = deque([origin])
        while waiting:
            host = waiting.popleft()
            for more_ms, to in sorted(neighbours[host]):
                path, sum_ms = (*paths[host], to), delay_ms[host] + more_ms
                if to not in paths:
                    waiting.append(to)
                elif (len(path), sum_ms) >= (len(paths[to]), delay_ms[to]):
                    continue
                paths[to], delay_ms[to] = path, sum_ms
        return paths

    def _problems(self) -> Iterator[str]:
        if not _TESTBED_NAME.fullmatch(self.name):
            yield f"the name is {self.name!r}, expected a-z, 0-9 and -, at most 40"
        if not self.links:
            yield "there is no link"
            return
        if len(self.hosts) > HOSTS_MAX:
            yield f"there are {len(self.hosts)} hosts, at most {HOSTS_MAX} can be"
        for host in self.hosts:
            if not _NAME.fullmatch(host) or host == "lo":
                yield f"host {host!r} needs another name, expected a-z, 0-9 and -, at most 15"
        seen: set[frozenset[str]] = set()
        for link in self.links:
            ends = frozenset((link.a, link.b))
            if len(ends) == 1:
                yield f"link {link.name} joins a host to itself"
            elif ends in seen:
                yield f"link {link.name} is there twice"
            seen.add(ends)
            yield from (f"link {link.name}: {problem}" for problem in link.shape.problems())
        bare = replace(self, links=tuple(Link(link.a, link.b) for link in self.links))  # whatever the shapes are
        reached = bare._find_paths(self.hosts[0])
        apart = [host for host in self.hosts if host not in reached]
        if apart:
            yield f"{', '.join(apart)} cannot be reached from {self.hosts[0]}"


def read_plan(path: Path, name: str) -> TestbedPlan:
    """Reads a plan from TOML: `[[link]]` tables with `between = ["a", "b"]` and the values of a shape.

    Raises:
        BadPlan: the file cannot be read, or says what cannot be.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadPlan([f"{path} cannot be read: {error.strerror}; `starling testbed --help` shows one"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadPlan([f"{path} is no TOML: {error}; `starling testbed --help` shows one"]) from error
    return parse_plan(document, name)


def parse_plan(document: Mapping[str, Any], name: str) -> TestbedPlan:
    """Returns the plan that a document holds, checked.

    Raises:
        BadPlan: names everything that is wrong.
    """
    unknown = sorted(document.keys() - {"name", "seed", "link"})
    problems = [f"found {key!r}, expected name, seed and [[link]]" for key in unknown]
    links: list[Link] = []
    tables = document.get("link", [])
    for table in tables if isinstance(tables, list) else [tables]:
        links += _parse_link(table, problems)
    seed = document.get("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        problems.append(f"seed is {seed!r}, expected a whole number from 0")
    if problems:
        raise BadPlan(problems)
    return TestbedPlan(str(document.get("name", name)), tuple(links), seed).check()


def with_shape(plan: TestbedPlan, link: str, shape: Shape) -> TestbedPlan:
    """Returns the plan with one link changed."""
    return replace(plan, links=tuple(replace(e, shape=shape) if e.name == link else e for e in plan.links))


def _parse_link(table: Any, problems: list[str]) -> Iterable[Link]:
    if not isinstance(table, Mapping):
        problems.append(f"link is {table!r}, expected a table [[link]]")
        return
    ends = table.get("between")
    if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, str) for end in ends)):
        problems.append(f'between is {ends!r}, expected two hosts such as ["edge", "cloud"]')
        return
    names = {each.name for each in fields(Shape)}
    unknown = sorted(table.keys() - names - {"between"})
    problems += [f"link {'-'.join(ends)}: found {key!r}, expected {', '.join(sorted(names))}" for key in unknown]
    yield Link(ends[0], ends[1], Shape(**{key: table[key] for key in names & table.keys()}))
