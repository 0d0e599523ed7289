"""What `starling call` says about an answer: tables for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from .models import ModelInfo
from .tensors import get_texts
from .values import Array, Prediction

_DETECTOR_OUTPUTS = frozenset({"boxes", "scores", "classes", "count"})
_TOP_COUNT = 5


@dataclass(frozen=True, slots=True)
class Detection:
    """One box of a detector.

    Attributes:
        row: picture in the batch.
        label: class name, or its number where the model has no labels.
        score: 0 to 1.
        box: x0, y0, x1, y1 in pixels.
    """

    row: int
    label: str
    score: float
    box: tuple[float, float, float, float]


def is_detector(prediction: Prediction) -> bool:
    """Returns whether the outputs are those of a detector."""
    return prediction.outputs.keys() >= _DETECTOR_OUTPUTS


def get_labels(model: ModelInfo | None, output: str) -> tuple[str, ...]:
    """Returns the labels of one output; empty when there are none."""
    return model.labels_by_output.get(output, ()) if model is not None else ()


def find_detections(prediction: Prediction, labels: tuple[str, ...], *, min_score: float) -> Iterator[Detection]:
    """Yields the boxes that are not padding and score high enough, best first in each picture."""
    boxes, scores, classes = (prediction[name] for name in ("boxes", "scores", "classes"))
    counts = np.atleast_1d(prediction["count"]).reshape(-1)
    for row, count in enumerate(counts):
        for index in np.argsort(-scores[row, : int(count)].astype(np.float64), kind="stable"):
            score, kind = float(scores[row, index]), int(classes[row, index])
            if score >= min_score:
                label = labels[kind] if 0 <= kind < len(labels) else str(kind)
                x0, y0, x1, y1 = (float(value) for value in boxes[row, index])
                yield Detection(row, label, score, (x0, y0, x1, y1))


def find_top(array: Array, labels: tuple[str, ...]) -> list[list[tuple[str, float]]]:
    """Returns the best labels of each row of a classifier's output, with their values."""
    rows = np.asarray(array, np.float64).reshape(-1, len(labels))
    order = np.argsort(-rows, axis=1, kind="stable")[:, :_TOP_COUNT]
    return [[(labels[i], float(row[i])) for i in best] for row, best in zip(rows, order, strict=True)]


def print_prediction(console: Console, prediction: Prediction, model: ModelInfo | None, *, min_score: float) -> None:
    """Prints the answer: what was found, who answered, and where the time went."""
    parts: list[RenderableType] = []
    rest = dict(prediction.outputs)
    if is_detector(prediction):
        parts.append(_build_detections(prediction, get_labels(model, "classes"), min_score))
        for name in _DETECTOR_OUTPUTS:
            del rest[name]
    for name, array in list(rest.items()):
        labels = get_labels(model, name)
        if len(labels) > 1 and array.ndim >= 1 and array.shape[-1] == len(labels) and array.size:
            parts.append(_build_top(name, find_top(array, labels)))
            del rest[name]
    if rest:
        parts.append(_build_arrays(rest))
    console.print(Group(*parts, _build_timing(prediction)))


def build_json(prediction: Prediction, model: ModelInfo | None, *, min_score: float) -> dict[str, Any]:
    """Returns the answer as one JSON value, arrays in full."""
    value: dict[str, Any] = {
        "model": prediction.model,
        "version": prediction.version,
        "node": prediction.node,
        "batch_size": prediction.batch_size,
        "round_trip_us": prediction.round_trip_us,
        "total_us": prediction.total_us,
        "predicted_us": prediction.predicted_us,
        "slack_us": prediction.slack_us,
        "queue_us": prediction.queue_us,
        "batch_wait_us": prediction.batch_wait_us,
        "compute_us": prediction.compute_us,
        "outputs": {
            name: {
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                "data": get_texts(array).astype(object).tolist(),
            }
            for name, array in prediction.outputs.items()
        },
    }
    if is_detector(prediction):
        found = find_detections(prediction, get_labels(model, "classes"), min_score=min_score)
        value["detections"] = [
            {"row": each.row, "label": each.label, "score": each.score, "box": list(each.box)} for each in found
        ]
    return value


def _build_detections(prediction: Prediction, labels: tuple[str, ...], min_score: float) -> Table:
    found = list(find_detections(prediction, labels, min_score=min_score))
    things = "thing" if len(found) == 1 else "things"
    table = Table(title=f"{len(found)} {things} at {min_score:.0%} or more", title_justify="left")
    many = len({each.row for each in found}) > 1
    for column in (["picture"] if many else []) + ["class", "score", "x0", "y0", "x1", "y1"]:
        table.add_column(column, justify="left" if column == "class" else "right")
    for each in found:
        row = [str(each.row)] if many else []
        table.add_row(*row, each.label, f"{each.score:.2f}", *(f"{value:.0f}" for value in each.box))
    return table


def _build_top(name: str, rows: list[list[tuple[str, float]]]) -> Table:
    table = Table(title=name, title_justify="left")
    if len(rows) > 1:
        table.add_column("row", justify="right")
    table.add_column("class")
    table.add_column("value", justify="right")
    for index, best in enumerate(rows):
        for label, value in best:
            table.add_row(*([str(index)] if len(rows) > 1 else []), label, f"{value:.4g}")
    return table


def _build_arrays(arrays: Mapping[str, Array]) -> Table:
    table = Table(title="outputs", title_justify="left")
    for column in ("name", "type", "shape", "values"):
        table.add_column(column)
    for name, array in arrays.items():
        values = np.array2string(get_texts(array).reshape(-1), precision=4, threshold=8, edgeitems=3, max_line_width=60)
        table.add_row(Text(name), str(array.dtype), str(list(array.shape)), Text(values))
    return table


def _build_timing(prediction: Prediction) -> Text:
    """Returns a line that adds up: way there and back, waiting, computing, the rest on the node.

    A second one says what the node expected and how close the deadline was, where the node tells.
    """
    rest_us = max(0, prediction.total_us - prediction.queue_us - prediction.compute_us)
    way_us = max(0, prediction.round_trip_us - prediction.total_us)
    node = prediction.node or "an unnamed node"
    batch_wait_us = prediction.batch_wait_us
    for_batch = f" ({batch_wait_us / 1e3:.1f} for the batch)" if batch_wait_us else ""
    text = (
        f"{prediction.model}:{prediction.version} on {node}, {prediction.round_trip_us / 1e3:.1f} ms = "
        f"way {way_us / 1e3:.1f} + queue {prediction.queue_us / 1e3:.1f}{for_batch} + "
        f"compute {prediction.compute_us / 1e3:.1f} + other {rest_us / 1e3:.1f}, batch of {prediction.batch_size}"
    )
    if prediction.predicted_us:
        slack = f"{abs(prediction.slack_us) / 1e3:.1f} ms {'before' if prediction.slack_us >= 0 else 'after'}"
        text += (
            f"\n{prediction.total_us / 1e3:.1f} ms on the node, {prediction.predicted_us / 1e3:.1f} predicted, "
            f"{slack} the deadline"
        )
    return Text(text)
