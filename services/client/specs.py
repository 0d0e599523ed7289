"""Inputs as they are written on the command line: `frame=@photo.jpg`, `x=zeros:1x3:fp32`, `x=[[1, 2]]`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .errors import InvalidInput
from .models import ModelInfo, TensorInfo
from .values import Array

_NAMED = re.compile(r"([A-Za-z_][\w./:-]*)=(.*)", re.DOTALL)
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "u2",
    "UINT32": "u4",
    "UINT64": "u8",
    "INT8": "i1",
    "INT16": "i2",
    "INT32": "i4",
    "INT64": "i8",
    "FP16": "f2",
    "FP32": "f4",
    "FP64": "f8",
    "BYTES": "O",
}
_FORMS = "@photo.jpg, @array.npy, zeros:1x3x4:fp32 or a JSON list"


@dataclass(frozen=True, slots=True)
class Spec:
    """One input as far as it can be read without knowing the model.

    Attributes:
        name: of the input; "" where it was left out.
        text: what was written, without the name.
        value: an array; or what JSON says, which takes the element type that the model wants.
        is_json: which of the two.
    """

    name: str
    text: str
    value: Any
    is_json: bool = False


def read_specs(texts: Sequence[str]) -> list[Spec]:
    """Returns what `NAME=SPEC` texts say, files read; asks nobody.

    Args:
        texts: one per input. The name may be left out where the model has one input.

    Raises:
        InvalidInput: a text cannot be read, says why and how to write it.
    """
    specs = []
    for text in texts:
        named = _NAMED.fullmatch(text)
        name, rest = (named[1], named[2]) if named else ("", text)
        try:
            specs.append(_read_spec(name, rest))
        except InvalidInput as error:
            raise InvalidInput(f"input {name!r}: {error}" if name else str(error)) from error
    return specs


def build_inputs(specs: Sequence[Spec], model: ModelInfo | None) -> dict[str, Array]:
    """Returns the arrays by the name of their input.

    Args:
        specs: what was read.
        model: gives names and, for JSON, element types; without it JSON is FP32.

    Raises:
        InvalidInput: a name is missing or given twice, or JSON is no array of the model's element type.
    """
    known = {info.name: info for info in model.inputs} if model is not None else {}
    arrays: dict[str, Array] = {}
    for spec in specs:
        name = spec.name or _get_only_name(spec.text, list(known.values()))
        if name in arrays:
            raise InvalidInput(f"input {name!r} is given twice; give each input once")
        arrays[name] = _build_array(spec, name, known.get(name)) if spec.is_json else spec.value
    return arrays


def _get_only_name(text: str, inputs: Sequence[TensorInfo]) -> str:
    if len(inputs) == 1:
        return inputs[0].name
    names = ", ".join(spec.name for spec in inputs) or "not known"
    raise InvalidInput(f"{text!r} has no name; write NAME={text}; the model's inputs are: {names}")


def _read_spec(name: str, text: str) -> Spec:
    if text.startswith("@"):
        path = Path(text[1:]).expanduser()
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}")
        return Spec(name, text, _read_numpy(path) if path.suffix == ".npy" else _read_picture(path))
    if text.startswith("zeros:"):
        return Spec(name, text, _build_zeros(text))
    try:
        return Spec(name, text, json.loads(text), is_json=True)
    except ValueError as error:
        raise InvalidInput(f"{text[:60]!r} is none of {_FORMS}: {error}") from error


def _read_picture(path: Path) -> Array:
    """Returns a picture as uint8[1, H, W, 3] BGR, turned upright if the camera noted how."""
    if path.suffix.lower() not in _PICTURES:
        raise InvalidInput(f"{path.name} is neither a picture nor .npy; expected {_FORMS}")
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise InvalidInput(f"{path} is no picture that OpenCV can read")
    return picture[np.newaxis]


def _read_numpy(path: Path) -> Array:
    try:
        array: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"{path} is no array: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InvalidInput(f"{path} holds several arrays; expected one, as numpy.save writes it")
    return array


def _build_zeros(spec: str) -> Array:
    match = re.fullmatch(r"zeros:(\d+(?:x\d+)*):(\w+)", spec)
    if match is None or match[2].upper() not in _DTYPES:
        kinds = ", ".join(_DTYPES).lower()
        raise InvalidInput(f"{spec!r} is not zeros:SHAPE:TYPE such as zeros:1x3x4:fp32; types are {kinds}")
    try:
        dtype = np.dtype(_DTYPES[match[2].upper()])
        return np.full([int(size) for size in match[1].split("x")], b"" if dtype.hasobject else 0, dtype)
    except (ValueError, MemoryError) as error:
        raise InvalidInput(f"{spec!r} makes no array: {error}") from error


def _build_array(spec: Spec, name: str, info: TensorInfo | None) -> Array:
    kind = info.data_type if info is not None else "FP32"
    try:
        return np.asarray(spec.value, np.dtype(_DTYPES.get(kind, "f4")))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"input {name!r}: {spec.text[:60]!r} is no {kind} array: {error}") from error
