"""The run as a table for people, live and at its end."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from mesh.demo.report import Report, Summary

_LAG_SHOWN_MS = 10.0  # above it the fleet's own lateness is a visible part of the latencies
_STYLES = {"answered": "green", "missed": "yellow", "rejected": "magenta", "failed": "red"}


def build_table(report: Report, title: str) -> Table:
    """Returns the counts and latencies per node, per tier and in all."""
    table = Table(
        title=f"{title}; latencies in ms",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for name in ("sent", *_STYLES):
        table.add_column(name, justify="right", style=_STYLES.get(name), no_wrap=True)
    for name in ("p50", "p95", "p99", "/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for node, summary in report.by_node.items():
        table.add_row(node, *_cells(summary))
    table.add_section()
    for tier, summary in report.by_tier.items():
        table.add_row(f"all {tier}", *_cells(summary))
    table.add_section()
    table.add_row("all", *_cells(report.total), style="bold")
    return table


def build_line(report: Report) -> str:
    """Returns the run so far as one line, for outputs that are no terminal."""
    total = report.total
    latency = f"p50 {_show(total.p50_ms)} ms, p99 {_show(total.p99_ms)} ms"
    return (
        f"{report.flown_s:5.1f} s  sent {total.sent}  answered {total.answered}  "
        f"missed {total.missed}  rejected {total.rejected}  failed {total.failed}  {latency}"
    )


def build_notes(report: Report) -> list[str]:
    """Returns what else a reader should know, one line each."""
    notes = []
    if sizes := report.total.batch_sizes:
        total = sum(sizes.values())
        shares = ", ".join(f"{size}: {count / total:.0%}" for size, count in sizes.items())
        notes.append(f"frames by batch size: {shares}")
    if report.reasons:
        why = ", ".join(f"{reason} x{count}" for reason, count in report.reasons.items())
        notes.append(f"not answered in time: {why}")
    if (median_ms := report.total.prediction_error_p50_ms) is not None:
        notes.append(
            f"the nodes predicted their own time to {median_ms:.1f} ms (p50), "
            f"{_show(report.total.prediction_error_p99_ms)} ms (p99)"
        )
    if report.lag_ms_p99 is not None and report.lag_ms_p99 > _LAG_SHOWN_MS:
        notes.append(
            f"the fleet itself was up to {report.lag_ms_p99:.0f} ms late (p99): this machine is "
            "too busy for so many agents"
        )
    return notes


def _cells(summary: Summary) -> list[str]:
    counts = (summary.answered, summary.missed, summary.rejected, summary.failed)
    return [
        str(summary.sent),
        *(str(count) if count else "[dim]0[/]" for count in counts),
        _show(summary.p50_ms),
        _show(summary.p95_ms),
        _show(summary.p99_ms),
        f"{summary.throughput_rps:.1f}",
    ]


def _show(latency_ms: float | None) -> str:
    return "-" if latency_ms is None else f"{latency_ms:.1f}"
