"""Ready lines are told from all other output."""

from __future__ import annotations

from mesh.program import parse_ready_line


def test_only_the_first_word_makes_a_ready_line() -> None:
    assert parse_ready_line("not ready a=1") is None
    assert parse_ready_line("") is None
    assert parse_ready_line("ready url=a=b") == {"url": "a=b"}
