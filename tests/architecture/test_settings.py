"""Every settings class of the product can be shown, read and set, and no two share a variable."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.host import describe_settings

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS_AT_THE_FRONT = re.compile(r"^(ms|us|s|bytes|mib|gib|max|min)_")


def find_settings_classes() -> Iterator[tuple[str, str]]:
    """Yields module and class of every class with an `env_prefix`, importing nothing."""
    for top in ("engines", "services", "mesh"):
        for path in sorted((REPOSITORY / top).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.ClassDef) and _has_prefix(node):
                    yield ".".join(path.relative_to(REPOSITORY).with_suffix("").parts), node.name


def _has_prefix(node: ast.ClassDef) -> bool:
    return any(
        isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and line.target.id == "env_prefix"
        and line.value is not None
        for line in node.body
    )


CLASSES = list(find_settings_classes())


def load(module: str, name: str) -> type[Any]:
    kind: type[Any] = getattr(importlib.import_module(module), name)
    return kind


def test_there_are_settings() -> None:
    assert ("services.predict.settings", "NodeSettings") in CLASSES


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_every_setting_has_help_and_a_plain_name(module: str, name: str) -> None:
    for info in describe_settings(load(module, name)):
        assert len(info.help.split()) >= 2, f"{name}.{info.name} needs a help text"
        assert not info.help.endswith("."), f"{name}.{info.name}: help is a phrase, not a sentence"
        assert not UNITS_AT_THE_FRONT.match(info.name), f"{name}.{info.name}: the unit comes last"


@pytest.mark.parametrize(("module", "name"), CLASSES)
def test_every_default_passes_its_own_check(module: str, name: str) -> None:
    for info in describe_settings(load(module, name)):
        if not info.required and info.check is not None and info.default is not None:
            assert info.check(info.default) is None, f"{name}.{info.name}"


def test_no_two_processes_share_a_variable() -> None:
    seen: dict[str, str] = {}
    for module, name in CLASSES:
        for info in describe_settings(load(module, name)):
            assert seen.setdefault(info.variable, name) == name
