"""The commands of `starling`: entry points of the group `starling.commands`."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

GROUP = "starling.commands"
Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True, slots=True)
class Command:
    """One command and the function that runs it.

    Attributes:
        name: word after `starling`.
        target: `module:function`; the function takes the arguments and returns the exit status.
    """

    name: str
    target: str

    def load(self) -> Main:
        """Returns the function, importing its module.

        Raises:
            ImportError: the module cannot be imported.
            AttributeError: the module has no such function.
        """
        module, _, function = self.target.partition(":")
        return cast("Main", getattr(import_module(module), function))

    def read_summary(self) -> str:
        """Returns the docstring's first line without importing the module; "" when unknown."""
        source = _find_source(self.target.partition(":")[0])
        if source is None:
            return ""
        try:
            doc = ast.get_docstring(ast.parse(source.read_bytes()))
        except (OSError, SyntaxError):
            return ""
        return doc.partition("\n")[0].rstrip(".") if doc else ""


def find_commands() -> Mapping[str, Command]:
    """Returns the commands by name: those of this source tree, if it is one, then the installed.

    A source tree counts first because an editable install keeps the entry points of its last build.
    """
    targets = {point.name: point.value for point in entry_points(group=GROUP)}
    targets.update(_read_source_tree())
    return {name: Command(name, targets[name]) for name in sorted(targets)}


def _read_source_tree() -> dict[str, str]:
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    try:
        table = tomllib.loads(project.read_text("utf-8")).get("project", {})
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    return {str(k): str(v) for k, v in table.get("entry-points", {}).get(GROUP, {}).items()}


def _find_source(module: str) -> Path | None:
    """Returns the file of a module, importing nothing: only the top-level name is looked up."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        path = Path(folder, *rest).with_suffix(".py")
        if path.is_file():
            return path
    return None
