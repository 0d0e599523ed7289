"""A service is followed through whatever an API server does: replays, disconnects, forgetting, refusing."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mesh.certs import LOCAL_HOSTS, CertStore, Identity, Role
from mesh.control.errors import NotInKubernetes
from mesh.control.kubernetes.api import KubernetesApi
from mesh.control.kubernetes.discovery import ALARM_S, KubernetesDiscovery, find_api, resolve_namespaces
from mesh.control.kubernetes.follower import Pace
from mesh.control.kubernetes.slices import Service
from mesh.control.registry import Registry
from mesh.endpoint import Health, Tier
from tests.support.fake_kubernetes import FakeKubernetes, make_endpoint, make_slice

_LIMIT_S = 20.0
_PACE = Pace(first_s=0.01, longest_s=0.05, watch_s=600)
_SERVICE = Service("robots", "nodes", Tier.EDGE)


class Followed:
    """A registry that follows a fake API server."""

    def __init__(self, url: str, account: Path, services: tuple[Service, ...] = (_SERVICE,)) -> None:
        self.registry = Registry(100, lambda: None)
        self.discovery = KubernetesDiscovery(
            KubernetesApi(url, account), services, "grpc", self.registry, pace=_PACE, rng=random.Random(1)
        )
        self.follower = self.discovery.followers[0]

    @property
    def nodes(self) -> dict[str, str]:
        endpoints = self.registry.endpoints(time.monotonic())
        return {e.name: str(e.address) if e.health is Health.SERVING else str(e.health) for e in endpoints}

    async def reaches(self, nodes: dict[str, str]) -> None:
        await until(lambda: self.nodes == nodes, lambda: f"{self.nodes} {self.follower!r}")


async def until(condition: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    end_s = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < end_s, explain()
        await asyncio.sleep(0.005)


@asynccontextmanager
async def following(
    fake: FakeKubernetes, account: Path, services: tuple[Service, ...] = (_SERVICE,), certificate: Path | None = None
) -> AsyncIterator[Followed]:
    async with fake.serve(certificate) as url:
        followed = Followed(url, account, services)
        run = asyncio.create_task(followed.discovery.run())
        try:
            yield followed
            assert not run.done(), "it gave up"
        finally:
            run.cancel()
            with suppress(asyncio.CancelledError):
                await run


async def test_a_rolling_update_is_followed_event_by_event(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1"), make_endpoint("node-1", "10.0.0.2")))
    fake.put(make_slice("others-a", make_endpoint("web-0", "10.0.9.9"), service="others"))
    async with following(fake, tmp_path) as followed:
        await followed.reaches({"node-0": "10.0.0.1:8001", "node-1": "10.0.0.2:8001"})
        await until(lambda: fake.watching == 1)
        going = make_endpoint("node-1", "10.0.0.2", ready=False, serving=True, terminating=True)
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1"), going))
        await followed.reaches({"node-0": "10.0.0.1:8001", "node-1": "draining"})
        starting = make_endpoint("node-1", "10.0.0.7", ready=False, serving=False)
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1"), starting))
        await followed.reaches({"node-0": "10.0.0.1:8001"})
        fake.put(make_slice("nodes-b", make_endpoint("node-1", "10.0.0.7"), make_endpoint("node-2", "10.0.0.8")))
        await followed.reaches({"node-0": "10.0.0.1:8001", "node-1": "10.0.0.7:8001", "node-2": "10.0.0.8:8001"})
        fake.remove("nodes-b")
        await followed.reaches({"node-0": "10.0.0.1:8001"})
        assert {member.tier for member in followed.registry} == {Tier.EDGE}
        assert (fake.lists, fake.watches) == (1, 1)
        assert list(followed.discovery.alarms(time.monotonic())) == []


async def test_a_broken_watch_goes_on_where_it_was(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    async with following(fake, tmp_path) as followed:
        for number in range(1, 6):
            await until(lambda: fake.watching == 1)
            fake.bookmark()
            await until(lambda count=number: followed.follower.events >= count)  # type: ignore[misc]
            fake.break_off()
            await until(lambda count=number: fake.watches > count)  # type: ignore[misc]
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.2")))
        await followed.reaches({"node-0": "10.0.0.2:8001"})
        assert fake.lists == 1
        # Each watch begins after the last bookmark, so nothing is sent twice.
        assert fake.versions == sorted(set(fake.versions))


@pytest.mark.parametrize("tell", [True, False], ids=["in the watch", "before the watch"])
async def test_what_was_forgotten_is_listed_again(tmp_path: Path, tell: bool) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    fake.put(make_slice("nodes-b", make_endpoint("node-1", "10.0.0.2")))
    async with following(fake, tmp_path) as followed:
        await followed.reaches({"node-0": "10.0.0.1:8001", "node-1": "10.0.0.2:8001"})
        await until(lambda: fake.watching == 1)
        if tell:
            fake.forget(tell=True)
        else:
            fake.break_off()
        fake.remove("nodes-b")  # nobody is told
        fake.forget()
        await followed.reaches({"node-0": "10.0.0.1:8001"})
        assert fake.lists >= 2
        await until(lambda: not followed.follower.problem)


async def test_the_server_may_refuse_for_a_while_and_nodes_stay(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    async with following(fake, tmp_path) as followed:
        await followed.reaches({"node-0": "10.0.0.1:8001"})
        await until(lambda: fake.watching == 1)
        fake.refusals = [(500, "etcd is away", {}), (403, "endpointslices is forbidden", {}), (429, "slow down", {})]
        fake.break_off()
        await until(lambda: followed.follower.failures >= 3)
        assert followed.nodes == {"node-0": "10.0.0.1:8001"}
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.2")))
        await followed.reaches({"node-0": "10.0.0.2:8001"})
        await until(lambda: fake.watching == 1 and fake.watches >= 2)
        fake.bookmark()
        await until(lambda: not followed.follower.problem)


@pytest.mark.parametrize(
    "raw",
    [
        b"what?\n",
        b"[]\n",
        b'{"type": "MODIFIED"}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "x"}}}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "7"}}}\n',
        b'{"type": "NEW", "object": {"metadata": {"name": "x", "resourceVersion": "7"}}}\n',
        b'{"type": "ERROR", "object": {"code": 500, "message": "boom"}}\n',
    ],
)
async def test_nonsense_in_a_watch_leads_to_a_new_list(tmp_path: Path, raw: bytes) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    async with following(fake, tmp_path) as followed:
        await until(lambda: fake.watching == 1)
        fake.send(raw)
        await until(lambda: fake.lists == 2 and fake.watches == 2 and fake.watching == 1)
        assert followed.follower.failures == 1
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.2")))
        await followed.reaches({"node-0": "10.0.0.2:8001"})


async def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    fake = FakeKubernetes(page=2)
    expected = {f"node-{i}": f"10.0.0.{i}:8001" for i in range(7)}
    for i in range(7):
        fake.put(make_slice(f"nodes-{i}", make_endpoint(f"node-{i}", f"10.0.0.{i}")))
    async with following(fake, tmp_path) as followed:
        await followed.reaches(expected)
        assert fake.lists == 4


async def test_a_slice_of_a_thousand_endpoints_is_one_event(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    async with following(fake, tmp_path) as followed:
        await until(lambda: fake.watching == 1)
        many = [make_endpoint(f"node-{i}", f"10.0.{i // 250}.{i % 250}") for i in range(1000)]
        fake.put(make_slice("nodes-a", *many))
        await until(lambda: len(followed.registry) == 100)
        (alarm,) = followed.discovery.alarms(time.monotonic())
        assert alarm == "900 endpoints of services are no nodes, for want of room; raise --nodes-max"


async def test_token_and_authority_are_read_again(tmp_path: Path) -> None:
    store, now, server = CertStore(tmp_path / "certs"), datetime.now(UTC), Identity(Role.CONTROL, "api")
    store.create("starling", now)
    folder = store.issue(server, now, hosts=LOCAL_HOSTS)
    account = tmp_path / "account"
    account.mkdir()
    fake = FakeKubernetes()
    fake.token = "first"
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    (account / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
    (account / "token").write_text("first\n")
    async with following(fake, account, certificate=folder) as followed:
        await followed.reaches({"node-0": "10.0.0.1:8001"})
        await until(lambda: fake.watching == 1)
        fake.token = "second"
        fake.break_off()
        await until(lambda: "401" in followed.follower.problem)
        assert followed.nodes == {"node-0": "10.0.0.1:8001"}
        assert "first" not in followed.follower.problem
        (account / "token").write_text("second\n")
        fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.2")))
        await followed.reaches({"node-0": "10.0.0.2:8001"})
        await until(lambda: fake.watching == 1)
        store.create("starling", now, replace=True)
        (account / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
        fake.break_off()
        await until(lambda: "CERTIFICATE_VERIFY_FAILED" in followed.follower.problem.upper())
        assert followed.nodes == {"node-0": "10.0.0.2:8001"}


async def test_a_token_never_travels_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    fake = FakeKubernetes()
    fake.token = "secret"
    async with following(fake, tmp_path) as followed:
        await until(lambda: "401" in followed.follower.problem)
        assert fake.lists == 0


async def test_a_service_that_cannot_be_followed_is_an_alarm_and_harms_no_other(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    wrong = Service("robots", "nodes", Tier.EDGE), Service("no/such/path", "x", Tier.CLOUD)
    async with following(fake, tmp_path, wrong) as followed:
        await followed.reaches({"node-0": "10.0.0.1:8001"})
        await until(lambda: bool(followed.discovery.followers[1].problem))
        (alarm,) = followed.discovery.alarms(time.monotonic() + ALARM_S + 1)
        assert alarm.startswith("service no/such/path/x cannot be followed for ")
        assert "it has given no nodes yet" in alarm


async def test_a_pod_of_two_services_is_one_node_of_the_first(tmp_path: Path) -> None:
    fake = FakeKubernetes()
    fake.put(make_slice("nodes-a", make_endpoint("node-0", "10.0.0.1")))
    fake.put(
        make_slice("far-a", make_endpoint("node-0", "10.0.0.1"), make_endpoint("far-0", "10.0.1.1"), service="far")
    )
    async with following(fake, tmp_path, (_SERVICE, Service("robots", "far", Tier.CLOUD))) as followed:
        await followed.reaches({"far-0": "10.0.1.1:8001", "node-0": "10.0.0.1:8001"})
        tiers = {member.name: member.tier for member in followed.registry}
        assert tiers == {"far-0": Tier.CLOUD, "node-0": Tier.EDGE}


def test_the_api_server_is_that_of_the_pod_unless_named() -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert find_api("", pod) == "https://[fd00::1]:6443"
    assert find_api("http://127.0.0.1:8001", pod) == "http://127.0.0.1:8001"
    with pytest.raises(NotInKubernetes, match="--kubernetes-api"):
        find_api("", {})


def test_a_service_without_a_namespace_is_in_that_of_the_pod(tmp_path: Path) -> None:
    bare = Service("", "nodes", Tier.EDGE)
    assert str(resolve_namespaces([bare], tmp_path)[0]) == "default/nodes"
    (tmp_path / "namespace").write_text("robots")
    assert [str(s) for s in resolve_namespaces([bare, Service("a", "b", Tier.EDGE)], tmp_path)] == [
        "robots/nodes",
        "a/b",
    ]
