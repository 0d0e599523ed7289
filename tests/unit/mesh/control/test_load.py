"""What a node says of itself is where a gateway that has not asked it yet begins."""

from __future__ import annotations

import math

import pytest
from google.protobuf.duration_pb2 import Duration
from starling.mesh.v1 import node_service_pb2 as pb
from xds.data.orca.v3.orca_load_report_pb2 import OrcaLoadReport

from mesh.control.estimate import Ending, Sample
from mesh.control.load import follow_service, read_orca, service_s
from mesh.control.registry import Registry
from mesh.control.viewpoint import Seat, Viewpoint
from mesh.control.weights import Rules
from mesh.endpoint import Endpoint, Tier
from services.host import Address


def ms(value: float) -> Duration:
    return Duration(nanos=int(value * 1e6))


def load(answered: int, queue_ms: float, compute_ms: float, name: str = "m") -> pb.ModelLoad:
    return pb.ModelLoad(name=name, answered_count=answered, queue_p50=ms(queue_ms), compute_p50=ms(compute_ms))


def test_models_count_by_their_answers() -> None:
    assert service_s(pb.LoadReport(models=[load(9, 1, 9), load(1, 10, 100, "slow")])) == pytest.approx(0.020)


def test_a_node_that_answered_nothing_says_nothing() -> None:
    assert service_s(pb.LoadReport()) is None
    assert service_s(pb.LoadReport(models=[load(0, 5, 5)])) is None


def test_an_idle_moment_does_not_make_it_forgotten() -> None:
    assert follow_service(None, None) is None
    assert follow_service(None, 0.050) == 0.050
    assert follow_service(0.050, None) == 0.050
    assert follow_service(0.050, 0.100) == pytest.approx(0.060)


def test_a_member_remembers_what_its_reports_say() -> None:
    registry = Registry(10, lambda: None)
    node = pb.Node(name="a", tier=pb.TIER_EDGE, grpc_address="127.0.0.1:1")
    member = registry.register(node, "start", 0.0, 0.0)
    assert member.service_s is None
    member.take_report(pb.LoadReport(), 0.030)
    assert (member.service_s, member.report) == (0.030, pb.LoadReport())


@pytest.mark.parametrize(
    ("named", "expected_s"),
    [
        ({"queue_us": 1_000.0, "compute_us": 9_000.0}, 0.010),
        ({"compute_us": 9_000.0}, 0.009),
        ({"queued": 3.0}, None),
        ({"compute_us": -1.0}, None),
        ({"compute_us": math.nan}, None),
        ({"queue_us": math.inf, "compute_us": 1.0}, None),
    ],
)
def test_reports_out_of_band_say_how_long_a_request_takes(named: dict[str, float], expected_s: float | None) -> None:
    report, service = read_orca(OrcaLoadReport(cpu_utilization=0.5, named_metrics=named))
    assert (report.cpu_ratio, service) == (0.5, expected_s)
    assert report.HasField("report_time")


@pytest.mark.parametrize(("said", "shown"), [(1.5, 1.0), (-1.0, 0.0), (math.nan, 0.0)])
def test_a_share_of_cores_that_cannot_be_is_brought_to_one(said: float, shown: float) -> None:
    assert read_orca(OrcaLoadReport(cpu_utilization=said))[0].cpu_ratio == shown


def seat(name: str, service: float, distance_s: float = 0.0) -> Seat:
    return Seat(Endpoint(name, Tier.EDGE, Address("127.0.0.1", 1)), 100.0, distance_s, service)


def test_a_viewpoint_that_has_asked_nobody_goes_by_what_nodes_say() -> None:
    view = Viewpoint("new", Rules())
    view.look([seat("busy", 0.200), seat("free", 0.010)], 0.0)
    assert view.plan.nodes["free"].share > 0.9
    # They may change places before anybody was asked.
    for tick in range(1, 100):
        view.look([seat("busy", 0.010), seat("free", 0.200)], 0.1 * tick)
    assert view.plan.nodes["busy"].share > 0.9


def test_what_a_gateway_sees_outweighs_what_a_node_says() -> None:
    view = Viewpoint("asked", Rules())
    for tick in range(100):
        now_s = 0.1 * tick
        for _ in range(10):
            view.take("a", Sample(now_s, 0.010, Ending.ANSWERED))
            view.take("b", Sample(now_s, 0.010, Ending.ANSWERED))
        view.look([seat("a", 0.010), seat("b", 5.0)], now_s)
    assert view.plan.nodes["b"].share == pytest.approx(0.5, abs=0.1)
