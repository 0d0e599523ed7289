"""Leases: who holds a name, who is silent, who is lost; and that we never take everybody out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starling.mesh.v1 import node_service_pb2 as pb

from mesh.control.errors import InvalidNode, LeaseExpired, NodeNameTaken, NodeNotFound, RegistryFull
from mesh.control.registry import FORGET_S, LEASE_S, SILENT_S, Member, Registry
from mesh.endpoint import Endpoint, Health, Tier
from services.host import Address


def describe(name: str = "edge-1", port: int = 9001, tier: Any = pb.TIER_EDGE) -> pb.Node:
    return pb.Node(name=name, tier=tier, grpc_address=f"127.0.0.1:{port}")


class Book:
    """A registry that counts its changes."""

    def __init__(self, nodes_max: int = 10) -> None:
        self.changes = 0
        self.registry = Registry(nodes_max, self._count)

    def _count(self) -> None:
        self.changes += 1

    def join(self, name: str = "edge-1", *, request_id: str = "start-1", now_s: float = 0.0) -> Member:
        return self.registry.register(describe(name), request_id, now_s, 1e9 + now_s)

    def talk(self, *names: str, until_s: float) -> None:
        """Lets nodes speak every 0.2 s from the start."""
        for i in range(1, round(until_s / 0.2) + 1):
            for name in names:
                self.registry.renew(self.registry.get(name).lease_id, 0.2 * i)

    def healths(self, now_s: float) -> dict[str, Health]:
        return {endpoint.name: endpoint.health for endpoint in self.registry.endpoints(now_s)}


def test_a_retry_of_the_same_start_gets_the_same_lease() -> None:
    book = Book()
    assert book.join().lease_id == book.join(now_s=1.0).lease_id
    assert book.changes == 1


def test_a_name_cannot_be_taken_from_a_living_node() -> None:
    book = Book()
    book.join()
    with pytest.raises(NodeNameTaken, match="edge-1") as caught:
        book.join(request_id="somebody-else", now_s=1.0)
    assert caught.value.retry_delay_s == pytest.approx(LEASE_S - 1.0)


def test_a_name_is_free_once_its_lease_has_ended() -> None:
    book = Book()
    old = book.join()
    new = book.join(request_id="start-2", now_s=LEASE_S + 0.1)
    assert new.lease_id != old.lease_id
    with pytest.raises(LeaseExpired):
        book.registry.renew(old.lease_id, LEASE_S + 0.2)


def test_a_silent_node_gets_nothing_until_it_speaks() -> None:
    book = Book()
    quiet, _, _ = (book.join(name) for name in ("a", "b", "c"))
    book.talk("a", "b", "c", until_s=10)
    for name in ("b", "c"):
        book.registry.renew(book.registry.get(name).lease_id, 10 + SILENT_S)
    assert book.healths(10.1 + SILENT_S) == {"a": Health.SILENT, "b": Health.SERVING, "c": Health.SERVING}
    changes = book.changes
    book.registry.renew(quiet.lease_id, 10.2 + SILENT_S)
    assert book.changes == changes + 1
    assert book.healths(10.2 + SILENT_S)["a"] is Health.SERVING


def test_a_node_that_is_never_punctual_is_given_more_time() -> None:
    book = Book()
    late, _ = book.join("a"), book.join("b")
    book.talk("b", until_s=6)
    for i in range(1, 11):
        book.registry.renew(late.lease_id, 0.6 * i)
    assert 1.7 < late.silent_after_s < 1.9
    assert book.healths(7.5)["a"] is Health.SERVING


def test_when_most_fall_silent_at_once_it_is_we_who_do_not_hear() -> None:
    book = Book()
    for name in ("a", "b", "c"):
        book.join(name)
    assert set(book.healths(SILENT_S + 0.1).values()) == {Health.SERVING}


def test_the_last_node_is_never_taken_out() -> None:
    book = Book()
    book.join("only")
    book.registry.expire(LEASE_S + 1)
    assert book.healths(LEASE_S + 1) == {"only": Health.SERVING}


def test_a_lost_node_is_gone_when_others_serve_and_forgotten_after_an_hour() -> None:
    book = Book()
    book.join("a")
    book.join("b", now_s=LEASE_S)
    (lost,) = book.registry.expire(LEASE_S + 0.1)
    assert (lost.name, book.healths(LEASE_S + 0.1)) == ("a", {"b": Health.SERVING})
    assert len(book.registry) == 2
    book.registry.expire(FORGET_S + 1)
    assert [member.name for member in book.registry] == ["b"]


def test_a_time_in_which_we_did_not_listen_counts_for_nobody() -> None:
    book = Book()
    for name in ("a", "b", "c"):
        book.join(name)
    book.registry.excuse(LEASE_S)
    assert book.registry.expire(LEASE_S + 0.5) == []
    assert set(book.healths(LEASE_S + 0.5).values()) == {Health.SERVING}


def test_a_draining_node_gets_nothing_new() -> None:
    book = Book()
    book.join("a")
    book.join("b")
    book.registry.drain("a")
    assert book.healths(0.1) == {"a": Health.DRAINING, "b": Health.SERVING}
    with pytest.raises(NodeNotFound):
        book.registry.drain("ghost")


def test_a_drain_goes_on_when_its_node_comes_back_from_silence() -> None:
    book = Book()
    book.join("a")
    book.join("b")
    book.registry.drain("a")
    book.talk("b", until_s=LEASE_S + 1)
    assert [member.name for member in book.registry.expire(LEASE_S + 1)] == ["a"]
    book.registry.order_drain("a", "start-1", "finish")  # which nobody hears now
    back = book.join("a", now_s=LEASE_S + 1.5)
    assert book.healths(LEASE_S + 1.5)["a"] is Health.DRAINING
    assert back.drain_order == "finish"


def test_a_new_process_of_a_drained_node_is_not_drained() -> None:
    book = Book()
    book.join("a")
    book.registry.drain("a")
    book.registry.expire(LEASE_S + 1)
    replaced = book.join("a", request_id="start-2", now_s=LEASE_S + 1.5)
    book.registry.order_drain("a", "start-1", "finish")
    assert book.healths(LEASE_S + 1.5) == {"a": Health.SERVING}
    assert (replaced.orders, replaced.drain_order) == ([], None)


def test_a_node_that_leaves_is_forgotten_at_once() -> None:
    book = Book()
    lease = book.join().lease_id
    book.registry.deregister(lease)
    assert len(book.registry) == 0
    with pytest.raises(LeaseExpired):
        book.registry.deregister(lease)


def test_there_is_a_most() -> None:
    book = Book(nodes_max=1)
    book.join("a")
    with pytest.raises(RegistryFull):
        book.join("b")


@pytest.mark.parametrize(
    ("node", "request_id", "words"),
    [
        (describe("Edge_1"), "x", "lower-case letters"),
        (describe(""), "x", "1 to 63"),
        (describe("a" * 64), "x", "1 to 63"),
        (describe("-a"), "x", "lower-case letters"),
        (describe(tier=pb.TIER_UNSPECIFIED), "x", "has no tier"),
        (pb.Node(name="a", tier=pb.TIER_EDGE, grpc_address="nowhere"), "x", "has no port"),
        (describe(port=0), "x", "port 0"),
        (describe(), "", "expected 1 to 128"),
        (describe(), "x" * 129, "expected 1 to 128"),
    ],
)
def test_a_node_that_cannot_be_is_refused(node: pb.Node, request_id: str, words: str) -> None:
    with pytest.raises(InvalidNode, match=words):
        Book().registry.register(node, request_id, 0.0, 0.0)


def test_a_static_node_needs_no_lease() -> None:
    book = Book()
    book.registry.add_static(Endpoint("edge-1", Tier.EDGE, Address("10.0.0.1", 8001)), 0.0, 0.0)
    assert book.registry.expire(1e6) == []
    assert book.healths(1e6) == {"edge-1": Health.SERVING}
    with pytest.raises(NodeNameTaken):
        book.join("edge-1", now_s=1e6)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["join", "renew", "leave", "drain", "wait"]))))
def test_whatever_happens_as_long_as_there_are_nodes_one_is_not_silenced(steps: list[tuple[str, str]]) -> None:
    book, now_s = Book(), 0.0
    for name, step in steps:
        now_s += 0.3
        member = next((m for m in book.registry if m.name == name), None)
        try:
            match step:
                case "join":
                    book.join(name, request_id=f"start-{now_s}", now_s=now_s)
                case "renew" if member is not None:
                    book.registry.renew(member.lease_id, now_s)
                case "leave" if member is not None:
                    book.registry.deregister(member.lease_id)
                case "drain":
                    book.registry.drain(name)
                case "wait":
                    now_s += 2.0
        except (NodeNameTaken, LeaseExpired, NodeNotFound):
            pass
        book.registry.expire(now_s)
        healths = book.healths(now_s)
        if len(book.registry):
            assert healths
            assert any(health is not Health.SILENT for health in healths.values())


def discovered(name: str, port: int = 9001, health: Health = Health.SERVING) -> Endpoint:
    return Endpoint(name, Tier.CLOUD, Address("10.0.0.1", port), health)


def test_discovered_nodes_are_the_whole_list() -> None:
    book = Book()
    book.registry.set_discovered([discovered("a"), discovered("b")], 0.0, 0.0)
    book.registry.set_discovered([discovered("b", 9002), discovered("c", health=Health.DRAINING)], 1.0, 1.0)
    assert book.healths(1e6) == {"b": Health.SERVING, "c": Health.DRAINING}
    assert book.registry.get("b").address.port == 9002
    assert book.registry.get("b").registered_s == 1.0


def test_a_discovered_node_that_registers_says_more_until_its_lease_ends() -> None:
    book = Book()
    book.registry.set_discovered([discovered("a"), discovered("b")], 0.0, 0.0)
    member = book.join("a")
    assert member.lease_id
    book.registry.set_discovered([discovered("a", 9009), discovered("b")], 1.0, 1.0)
    assert book.registry.get("a") is member
    book.registry.expire(LEASE_S + 0.1)
    assert (book.registry.get("a").discovered, book.registry.get("a").address.port) == (True, 9009)
    again = book.join("a", request_id="start-2", now_s=LEASE_S + 1)
    book.registry.deregister(again.lease_id)
    book.registry.expire(LEASE_S + 2)
    assert book.registry.get("a").discovered
    book.registry.set_discovered([discovered("b")], LEASE_S + 3, 0.0)
    assert book.healths(LEASE_S + 3) == {"b": Health.SERVING}


def test_a_node_of_the_static_list_is_not_discovered_away() -> None:
    book = Book()
    book.registry.add_static(Endpoint("a", Tier.EDGE, Address("10.0.0.7", 8001)), 0.0, 0.0)
    book.registry.set_discovered([discovered("a")], 1.0, 1.0)
    book.registry.set_discovered([], 2.0, 2.0)
    assert str(book.registry.get("a").address) == "10.0.0.7:8001"


def test_news_of_a_drained_node_do_not_bring_it_back() -> None:
    book = Book()
    book.registry.set_discovered([discovered("a"), discovered("b")], 0.0, 0.0)
    book.registry.drain("a")
    book.registry.set_discovered([discovered("a"), discovered("b")], 1.0, 1.0)
    assert book.healths(1.0)["a"] is Health.DRAINING


def test_discovered_nodes_beyond_the_most_are_left_out() -> None:
    book = Book(nodes_max=2)
    assert book.registry.set_discovered([discovered(name) for name in "abc"], 0.0, 0.0) == 2
