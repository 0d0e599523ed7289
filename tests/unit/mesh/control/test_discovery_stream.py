"""Both discovery protocols, event by event: what is sent, what is not sent again, what is kept after a refusal."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.discovery_stream import DeltaStream, WorldStream
from mesh.control.messages import CLUSTER, ENDPOINTS
from mesh.control.snapshot import Snapshot


def build(endpoints_port: int = 1, connect_s: int = 1, names: tuple[str, ...] = ("nodes",)) -> Snapshot:
    clusters = {name: cluster_pb2.Cluster(name=name, connect_timeout={"seconds": connect_s}) for name in names}
    assignments = {}
    for name in names:
        assignments[name] = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
        entry = assignments[name].endpoints.add().lb_endpoints.add()
        entry.endpoint.address.socket_address.port_value = endpoints_port
    return Snapshot().with_messages(CLUSTER, clusters).with_messages(ENDPOINTS, assignments)


def delta(url: str, *names: str, nonce: str = "", refusal: str = "", **known: str) -> Any:
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=url, resource_names_subscribe=names, response_nonce=nonce, initial_resource_versions=known
    )
    if refusal:
        request.error_detail.CopyFrom(status_pb2.Status(message=refusal))
    return request


def world(url: str, *names: str, nonce: str = "", version: str = "", refusal: str = "") -> Any:
    request = discovery_pb2.DiscoveryRequest(
        type_url=url, resource_names=names, response_nonce=nonce, version_info=version
    )
    if refusal:
        request.error_detail.CopyFrom(status_pb2.Status(message=refusal))
    return request


def sent(responses: Any) -> list[tuple[str, list[str]]]:
    return [(r.type_url, sorted(resource.name for resource in r.resources)) for r in responses]


def subscribed() -> DeltaStream:
    stream = DeltaStream()
    stream.receive(delta(CLUSTER))
    stream.receive(delta(ENDPOINTS, "nodes"))
    return stream


class TestDelta:
    def test_clusters_come_before_their_endpoints_and_only_once(self) -> None:
        stream = subscribed()
        assert sent(stream.respond(build())) == [(CLUSTER, ["nodes"]), (ENDPOINTS, ["nodes"])]
        assert sent(stream.respond(build())) == []

    def test_new_weights_send_endpoints_and_nothing_else(self) -> None:
        stream = subscribed()
        list(stream.respond(build()))
        assert sent(stream.respond(build(endpoints_port=2))) == [(ENDPOINTS, ["nodes"])]

    def test_endpoints_follow_every_change_of_their_cluster(self) -> None:
        stream = subscribed()
        list(stream.respond(build()))
        assert sent(stream.respond(build(connect_s=2))) == [(CLUSTER, ["nodes"]), (ENDPOINTS, ["nodes"])]

    def test_nobody_gets_what_nobody_asked_for(self) -> None:
        stream = DeltaStream()
        stream.receive(delta(ENDPOINTS, "a"))
        assert sent(stream.respond(build(names=("a", "b")))) == [(ENDPOINTS, ["a"])]

    def test_a_name_that_does_not_exist_is_told_once(self) -> None:
        stream = DeltaStream()
        stream.receive(delta(ENDPOINTS, "ghost"))
        (response,) = stream.respond(build())
        assert list(response.removed_resources) == ["ghost"]
        assert list(stream.respond(build())) == []
        assert sent(stream.respond(build(names=("ghost",)))) == [(ENDPOINTS, ["ghost"])]

    def test_what_is_gone_is_removed(self) -> None:
        stream = subscribed()
        list(stream.respond(build(names=("nodes", "more"))))
        (response,) = stream.respond(build())
        assert (response.type_url, list(response.removed_resources)) == (CLUSTER, ["more"])

    def test_after_a_restart_only_differences_travel(self) -> None:
        snapshot = build()
        versions = {url: {n: r.version for n, r in snapshot.of_type(url).items()} for url in (CLUSTER, ENDPOINTS)}
        stream = DeltaStream()
        stream.receive(delta(CLUSTER, **versions[CLUSTER]))
        stream.receive(delta(ENDPOINTS, "nodes", **versions[ENDPOINTS]))
        assert sent(stream.respond(build())) == []
        assert sent(stream.respond(build(endpoints_port=2))) == [(ENDPOINTS, ["nodes"])]

    def test_endpoints_that_were_brought_along_can_be_held(self) -> None:
        stream = DeltaStream()
        stream.receive(delta(ENDPOINTS, "nodes", nodes="from before"))
        assert sent(stream.respond(build(), hold=True)) == []
        assert sent(stream.respond(build())) == [(ENDPOINTS, ["nodes"])]

    def test_a_new_gateway_is_never_held(self) -> None:
        assert sent(subscribed().respond(build(), hold=True))[-1] == (ENDPOINTS, ["nodes"])

    def test_a_refusal_is_told_and_not_answered_with_the_same_again(self) -> None:
        stream = subscribed()
        cluster, _ = stream.respond(build())
        verdict = stream.receive(delta(CLUSTER, nonce=cluster.nonce, refusal="no such policy"))
        assert verdict is not None
        assert (verdict.type_url, verdict.refusal) == (CLUSTER, "no such policy")
        assert sent(stream.respond(build())) == []

    def test_a_name_that_is_asked_for_again_is_sent_again(self) -> None:
        stream = subscribed()
        list(stream.respond(build()))
        stream.receive(delta(ENDPOINTS, "nodes"))
        assert sent(stream.respond(build())) == [(ENDPOINTS, ["nodes"])]

    def test_what_is_unsubscribed_is_not_sent(self) -> None:
        stream = subscribed()
        list(stream.respond(build()))
        request = delta(ENDPOINTS)
        request.resource_names_unsubscribe.append("nodes")
        stream.receive(request)
        assert sent(stream.respond(build(endpoints_port=2))) == []

    @given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.booleans(), st.booleans()), max_size=20))
    def test_whatever_happens_the_gateway_ends_with_the_newest(self, events: list[tuple[int, int, bool, bool]]) -> None:
        """A gateway that applies what it gets, also over new streams, has the newest snapshot in the end."""
        stream, has = subscribed(), dict[str, dict[str, str]]()
        for port, connect_s, restarts, more in [*events, (9, 9, False, False)]:
            snapshot = build(port, connect_s, ("nodes", "more") if more else ("nodes",))
            if restarts:
                stream = DeltaStream()
                stream.receive(delta(CLUSTER, **has.get(CLUSTER, {})))
                stream.receive(delta(ENDPOINTS, "nodes", **has.get(ENDPOINTS, {})))
            for response in stream.respond(snapshot):
                mine = has.setdefault(response.type_url, {})
                mine.update({r.name: r.version for r in response.resources})
                for name in response.removed_resources:
                    mine.pop(name, None)
        final = build(9, 9)
        assert has == {url: {n: r.version for n, r in final.of_type(url).items()} for url in (CLUSTER, ENDPOINTS)}


class TestWorld:
    def stream(self) -> WorldStream:
        stream = WorldStream()
        stream.receive(world(CLUSTER))
        stream.receive(world(ENDPOINTS, "nodes"))
        return stream

    def test_everything_comes_once_clusters_first(self) -> None:
        stream = self.stream()
        first = list(stream.respond(build()))
        assert [r.type_url for r in first] == [CLUSTER, ENDPOINTS]
        for response in first:
            names = ("nodes",) if response.type_url == ENDPOINTS else ()
            verdict = stream.receive(
                world(response.type_url, *names, nonce=response.nonce, version=response.version_info)
            )
            assert verdict is not None
            assert not verdict.refusal
        assert list(stream.respond(build())) == []

    def test_endpoints_follow_a_change_of_clusters(self) -> None:
        stream = self.stream()
        list(stream.respond(build()))
        assert [r.type_url for r in stream.respond(build(connect_s=2))] == [CLUSTER, ENDPOINTS]

    def test_a_verdict_on_an_older_response_counts_for_nothing(self) -> None:
        stream = self.stream()
        _, old = stream.respond(build())
        list(stream.respond(build(endpoints_port=2)))
        assert stream.receive(world(ENDPOINTS, "nodes", nonce=old.nonce, refusal="late")) is None

    def test_a_refusal_is_told(self) -> None:
        stream = self.stream()
        _, response = stream.respond(build())
        verdict = stream.receive(world(ENDPOINTS, "nodes", nonce=response.nonce, refusal="weight 0"))
        assert verdict is not None
        assert verdict.refusal == "weight 0"
        assert list(stream.respond(build())) == []

    def test_more_names_are_answered_without_any_change(self) -> None:
        stream = WorldStream()
        stream.receive(world(ENDPOINTS, "a"))
        (first,) = stream.respond(build(names=("a", "b")))
        stream.receive(world(ENDPOINTS, "a", "b", nonce=first.nonce, version=first.version_info))
        (second,) = stream.respond(build(names=("a", "b")))
        assert len(second.resources) == 2

    @pytest.mark.parametrize("hold", [True, False])
    def test_endpoints_that_were_brought_along_can_be_held(self, hold: bool) -> None:
        stream = WorldStream()
        stream.receive(world(ENDPOINTS, "nodes", version="from before"))
        assert bool(list(stream.respond(build(), hold=hold))) is not hold


def test_equal_contents_have_equal_versions_in_any_order() -> None:
    one, other = build(names=("a", "b")), build(names=("b", "a"))
    assert one.version(CLUSTER) == other.version(CLUSTER)
    assert one.version(CLUSTER) != build(connect_s=3, names=("a", "b")).version(CLUSTER)
