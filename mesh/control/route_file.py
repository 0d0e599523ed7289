"""The file that keeps operators' routes while the control plane is down."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh.control.errors import InvalidRoute, RoutesNotWritten
from mesh.control.model_routes import Label, RoutePlan


def read_routes(path: Path) -> dict[str, RoutePlan]:
    """Returns the routes in a file by model; none when it does not exist yet.

    Raises:
        InvalidRoute: the file holds something else; says what.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {}
    try:
        routes: Any = json.loads(text)
        plans = [
            RoutePlan(model, tuple(Label(name, **fields) for name, fields in labels.items()))
            for model, labels in routes.items()
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidRoute(f"{path} holds no routes: {error}; repair or remove it") from error
    return {plan.model: plan for plan in plans}


def write_routes(path: Path, plans: Mapping[str, RoutePlan]) -> None:
    """Replaces the file in one step.

    Raises:
        RoutesNotWritten: it cannot be written.
    """
    routes = {
        model: {label.name: {"version": label.version, "percent": label.percent} for label in plan.labels}
        for model, plan in sorted(plans.items())
    }
    following = path.with_name(path.name + ".next")
    try:
        with following.open("w", encoding="utf-8") as file:
            json.dump(routes, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        following.replace(path)
    except OSError as error:
        raise RoutesNotWritten(str(path), error.strerror or str(error)) from error
