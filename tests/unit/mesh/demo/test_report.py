"""The report counts every frame once, in all, per tier and per node."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.demo.outcome import Outcome, Verdict
from mesh.demo.report import NOBODY, Report, build_report, get_percentile
from mesh.demo.table import build_notes

_TIERS = {"edge-1": "edge", "edge-2": "edge", "cloud-1": "cloud"}


def build_outcome(
    verdict: Verdict = Verdict.ANSWERED,
    node: str = "edge-1",
    elapsed_ms: float = 20.0,
    batch_size: int = 1,
    reason: str = "",
    total_ms: float = 0.0,
    predicted_ms: float = 0.0,
) -> Outcome:
    return Outcome(
        agent=0,
        sequence=0,
        due_s=0.0,
        lag_ms=0.5,
        elapsed_ms=elapsed_ms,
        verdict=verdict,
        node=node,
        batch_size=batch_size,
        reason=reason,
        total_ms=total_ms,
        predicted_ms=predicted_ms,
    )


def test_a_run_is_counted_per_node_and_tier() -> None:
    report = build_report(
        [
            build_outcome(elapsed_ms=10),
            build_outcome(elapsed_ms=30, node="edge-2", batch_size=2),
            build_outcome(elapsed_ms=60, node="cloud-1"),
            build_outcome(Verdict.MISSED, elapsed_ms=120, node="cloud-1", reason="LATE_ANSWER"),
            build_outcome(Verdict.REJECTED, node="", batch_size=0, reason="QUEUE_FULL"),
        ],
        _TIERS,
        flown_s=2.0,
    )
    counts = {name: (s.sent, s.answered, s.missed, s.rejected) for name, s in report.by_node.items()}
    assert counts == {
        "edge-1": (1, 1, 0, 0),
        "edge-2": (1, 1, 0, 0),
        "cloud-1": (2, 1, 1, 0),
        NOBODY: (1, 0, 0, 1),
    }
    assert {tier: s.sent for tier, s in report.by_tier.items()} == {"edge": 2, "cloud": 2}
    assert (report.total.p50_ms, report.total.p99_ms) == (30, 120)
    assert report.total.throughput_rps == 1.5
    assert report.total.batch_sizes == {1: 3, 2: 1}
    assert report.reasons == {"LATE_ANSWER": 1, "QUEUE_FULL": 1}
    assert report.is_good


def test_every_reason_is_listed_with_its_count() -> None:
    def reject(reason: str) -> Outcome:
        return build_outcome(Verdict.REJECTED, node="", batch_size=0, reason=reason)

    report = build_report(
        [reject("SUPERSEDED"), reject("DEADLINE_UNMEETABLE"), reject("DEADLINE_UNMEETABLE"), build_outcome()],
        _TIERS,
        flown_s=1.0,
    )
    assert (report.total.rejected, report.total.failed) == (3, 0)
    assert "not answered in time: DEADLINE_UNMEETABLE x2, SUPERSEDED x1" in build_notes(report)


def test_predictions_are_held_against_what_came() -> None:
    errors_ms = {"edge-1": (2, -1, 0.5), "edge-2": (40,)}
    outcomes = [
        build_outcome(node=node, total_ms=20 + error_ms, predicted_ms=20)
        for node, some in errors_ms.items()
        for error_ms in some
    ]
    # Neither a node that predicts nothing nor a frame that nobody answered is a bad prediction.
    silent = [build_outcome(node="cloud-1", total_ms=30), build_outcome(Verdict.REJECTED, node="", batch_size=0)]
    report = build_report([*outcomes, *silent], _TIERS, flown_s=1.0)
    assert (report.total.prediction_error_p50_ms, report.total.prediction_error_p99_ms) == (1, 40)
    assert report.by_node["edge-1"].to_json()["prediction_error_p99_ms"] == 2
    assert report.by_node["cloud-1"].prediction_error_p50_ms is None
    assert "the nodes predicted their own time to 1.0 ms (p50), 40.0 ms (p99)" in build_notes(report)
    assert not any("predicted" in note for note in build_notes(build_report(silent, _TIERS, flown_s=1.0)))


def test_the_json_has_the_agreed_fields_everywhere() -> None:
    document = build_report([build_outcome()], _TIERS, flown_s=1.0).to_json()
    fields = {"sent", "answered", "missed", "rejected", "failed"}
    fields |= {"p50_ms", "p95_ms", "p99_ms", "throughput_rps"}
    assert fields <= document.keys()
    assert all(fields <= node.keys() for node in document["nodes"].values())
    assert all(fields <= tier.keys() for tier in document["tiers"].values())
    assert document["nodes"]["cloud-1"]["p50_ms"] is None


def test_a_run_without_frames_is_a_report_and_not_good() -> None:
    report = build_report([], _TIERS, flown_s=0.0)
    assert (report.total.sent, report.total.p50_ms, report.total.throughput_rps) == (0, None, 0.0)
    assert not report.is_good


def test_one_failure_makes_a_run_bad() -> None:
    outcomes = [build_outcome(), build_outcome(Verdict.FAILED, node="")]
    assert not build_report(outcomes, _TIERS, flown_s=1.0).is_good


def test_a_node_that_was_not_planned_still_counts() -> None:
    report = build_report([build_outcome(node="stranger")], _TIERS, flown_s=1.0)
    assert report.by_node["stranger"].sent == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Verdict), st.sampled_from(["", *_TIERS]))))
def test_all_frames_are_in_one_row_and_one_class(kinds: list[tuple[Verdict, str]]) -> None:
    report: Report = build_report([build_outcome(v, n) for v, n in kinds], _TIERS, flown_s=1.0)
    assert sum(s.sent for s in report.by_node.values()) == report.total.sent == len(kinds)
    for summary in (report.total, *report.by_node.values(), *report.by_tier.values()):
        parts = (summary.answered, summary.missed, summary.rejected, summary.failed)
        assert sum(parts) == summary.sent


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_one_of_the_values(values: list[float], percent: float) -> None:
    found = get_percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= percent / 100 * len(values)
