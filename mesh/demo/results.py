"""What a run leaves behind: a table on the terminal, `report.json`, `report.png`, and `photo.jpg` to ask about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mesh.demo.monitor import Monitor
from mesh.demo.report import Report
from mesh.demo.run import Ending
from mesh.demo.samples import choose_samples
from mesh.demo.settings import PHOTO, DemoSettings
from mesh.demo.table import build_notes, build_table
from mesh.errors import MeshError
from mesh.machine import describe_machine, describe_versions


def show_results(console: Console, settings: DemoSettings, report: Report) -> None:
    """Prints the table and what else a reader should know."""
    console.print(build_table(report, settings.title))
    for note in build_notes(report):
        console.print(note, highlight=False)


def write_results(settings: DemoSettings, monitor: Monitor, report: Report, ending: Ending) -> Sequence[Path]:
    """Writes the report and the pictures into `settings.out`; returns their paths.

    Raises:
        MeshError: a file cannot be written, or the video can no longer be read.
    """
    assert monitor.started is not None, "a run that has ended has started"
    document = {
        "name": "demo",
        **report.to_json(),
        "interrupted": ending.interrupted,
        **({"testbed": ending.links.to_json()} if ending.links is not None else {}),
        "first_answer_s": monitor.first_answer_s,
        "events": monitor.events,
        "model": dict(monitor.started.model),
        "settings": settings.to_json(),
        "machine": describe_machine(),
        "versions": dict(describe_versions()),
    }
    path = settings.out / "report.json"
    try:
        path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise MeshError(f"cannot write {path}: {error.strerror}; give another --out") from error
    return path, *_write_pictures(settings, monitor, report)


def _write_pictures(settings: DemoSettings, monitor: Monitor, report: Report) -> Sequence[Path]:
    from mesh.demo.picture import COLUMNS, ROWS, write_contact_sheet, write_photo  # OpenCV, only now

    assert monitor.started is not None, "a run that has ended has started"
    title = (
        f"{settings.model}: {settings.title}; {report.total.answered} of {report.total.sent} "
        f"frames answered within {settings.deadline_ms:g} ms"
    )
    samples = choose_samples(monitor.outcomes, COLUMNS * ROWS)
    path = settings.out / "report.png"
    write_contact_sheet(path, settings.video, samples, monitor.started.labels, title)
    if not samples:
        return (path,)
    photo = settings.out / PHOTO
    write_photo(photo, settings.video, max(samples, key=lambda sample: len(sample.detections)))
    return path, photo
