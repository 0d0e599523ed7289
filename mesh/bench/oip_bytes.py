"""Open Inference requests as bytes: enough of the wire format to drive a Triton, without its client or its proto.

Field numbers are those of `inference.GRPCInferenceService`. Tensors travel raw: row-major, little-endian.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"

_DATATYPES: Mapping[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4"), "UINT8": np.dtype("u1")}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_NAME, _INPUTS, _RAW_INPUTS = 1, 5, 7
_OUTPUTS, _RAW_OUTPUTS = 5, 6
_TENSOR_NAME, _TENSOR_DATATYPE, _TENSOR_SHAPE = 1, 2, 3


class OipMalformed(ValueError):
    """The bytes are no ModelInferResponse with raw contents for every output."""


@dataclass(frozen=True, slots=True)
class _Described:
    name: str
    datatype: str
    shape: tuple[int, ...]


def write_infer_request(model: str, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """Returns a serialised ModelInferRequest for the newest version of a model.

    Args:
        model: name of the model.
        inputs: by name; FP32, INT32 or UINT8, the batch first.
    """
    message = bytearray(_field(_MODEL_NAME, model.encode()))
    for name, array in inputs.items():
        shape = b"".join(map(_varint, array.shape))
        described = _field(_TENSOR_NAME, name.encode()) + _field(_TENSOR_DATATYPE, _datatype(array).encode())
        message += _field(_INPUTS, described + _field(_TENSOR_SHAPE, shape))
    for array in inputs.values():
        message += _field(_RAW_INPUTS, array.astype(_DATATYPES[_datatype(array)], copy=False).tobytes())
    return bytes(message)


def read_infer_response(data: bytes) -> dict[str, NDArray[Any]]:
    """Returns the outputs of a serialised ModelInferResponse by name.

    Raises:
        OipMalformed: it is something else, or an output came without its data.
    """
    described: list[_Described] = []
    raw: list[bytes] = []
    for number, value in _read_fields(data):
        if number == _OUTPUTS and isinstance(value, bytes):
            described.append(_read_tensor(value))
        elif number == _RAW_OUTPUTS and isinstance(value, bytes):
            raw.append(value)
    if len(described) != len(raw):
        raise OipMalformed(f"{len(described)} outputs with {len(raw)} raw contents; expected one for each")
    return {tensor.name: _read_array(tensor, content) for tensor, content in zip(described, raw, strict=True)}


def _datatype(array: NDArray[Any]) -> str:
    names = {dtype: name for name, dtype in _DATATYPES.items()}
    return names[array.dtype.newbyteorder("<")]


def _read_array(tensor: _Described, content: bytes) -> NDArray[Any]:
    dtype = _DATATYPES.get(tensor.datatype)
    if dtype is None or len(content) != math.prod(tensor.shape) * dtype.itemsize or not content:
        raise OipMalformed(f"output {tensor.name} is {tensor.datatype}{list(tensor.shape)} in {len(content)} bytes")
    array: NDArray[Any] = np.frombuffer(content, dtype)
    return array.reshape(tensor.shape)


def _read_tensor(data: bytes) -> _Described:
    name = datatype = ""
    shape: list[int] = []
    for number, value in _read_fields(data):
        if number == _TENSOR_SHAPE:
            shape += [value] if isinstance(value, int) else _read_packed(value)
        elif number == _TENSOR_NAME and isinstance(value, bytes):
            name = value.decode(errors="replace")
        elif number == _TENSOR_DATATYPE and isinstance(value, bytes):
            datatype = value.decode(errors="replace")
    return _Described(name, datatype, tuple(shape))


def _read_packed(data: bytes) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _read_varint(data, at)
        values.append(value)
    return values


def _read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields number and value of each field; fixed-width values as their bytes."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise OipMalformed(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise OipMalformed(f"a field of {size} bytes with {len(data) - at} left")
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7
    raise OipMalformed(f"a number that does not end at byte {at}")


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Returns a number >= 0 in base 128, least significant group first.

    >>> _varint(300).hex()
    'ac02'
    """
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
