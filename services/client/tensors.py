"""NumPy arrays to and from `starling.tensor.v1.Tensor`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from starling.tensor.v1.tensor_pb2 import DataType, Tensor

from .errors import InvalidInput, MalformedReply
from .values import Array

_DTYPES: dict[int, np.dtype[Any]] = {
    DataType.DATA_TYPE_BOOL: np.dtype(np.bool_),
    DataType.DATA_TYPE_UINT8: np.dtype("u1"),
    DataType.DATA_TYPE_UINT16: np.dtype("<u2"),
    DataType.DATA_TYPE_UINT32: np.dtype("<u4"),
    DataType.DATA_TYPE_UINT64: np.dtype("<u8"),
    DataType.DATA_TYPE_INT8: np.dtype("i1"),
    DataType.DATA_TYPE_INT16: np.dtype("<i2"),
    DataType.DATA_TYPE_INT32: np.dtype("<i4"),
    DataType.DATA_TYPE_INT64: np.dtype("<i8"),
    DataType.DATA_TYPE_FP16: np.dtype("<f2"),
    DataType.DATA_TYPE_FP32: np.dtype("<f4"),
    DataType.DATA_TYPE_FP64: np.dtype("<f8"),
}
_TEXT_KINDS = "OSU"  # of dtypes whose elements travel as BYTES
_LENGTH_BYTES = 4  # before each element of BYTES
_DATA_TYPES = {(dtype.kind, dtype.itemsize): code for code, dtype in _DTYPES.items()}


def get_type_name(data_type: int) -> str:
    """Returns the short name of a data type, such as `FP32`; a number that is none stays one."""
    try:
        return DataType.Name(DataType.ValueType(data_type)).removeprefix("DATA_TYPE_")
    except ValueError:
        return str(data_type)


def build_tensor_head(name: str, array: Array) -> Tensor:
    """Returns the tensor of an array without its bytes.

    Raises:
        InvalidInput: it is no array, or its elements have no type on the wire.
    """
    if not isinstance(array, np.ndarray):
        raise InvalidInput(
            f"input {name!r} is a {type(array).__name__}; expected a numpy.ndarray, "
            "so that its type is certain; use numpy.asarray(value, dtype)"
        )
    dtype = array.dtype
    data_type = _DATA_TYPES.get((dtype.kind, dtype.itemsize))
    if dtype.name == "bfloat16":
        data_type = DataType.DATA_TYPE_BF16
    if dtype.kind in _TEXT_KINDS:
        data_type = DataType.DATA_TYPE_BYTES
    if data_type is None:
        known = ", ".join(sorted(str(kind) for kind in _DTYPES.values()))
        raise InvalidInput(
            f"input {name!r} has dtype {dtype}; expected one of {known}, bfloat16, bytes, str; cast before sending"
        )
    return Tensor(name=name, data_type=DataType.ValueType(data_type), shape=array.shape)


def get_raw(name: str, array: Array) -> memoryview:
    """Returns the elements as they go on the wire: row-major and little-endian, texts with their lengths.

    Borrows the array when it already is; otherwise makes one copy.

    Raises:
        InvalidInput: an element of an array of objects is neither bytes nor str.
    """
    if array.dtype.kind in _TEXT_KINDS:
        return memoryview(_pack_texts(name, array))
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian):
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def decode_tensor(tensor: Tensor) -> Array:
    """Returns a read-only view of a received tensor; BYTES as an array of `bytes` objects.

    BF16 becomes `ml_dtypes.bfloat16` where that package is installed, else float32, which holds
    every value exactly.

    Raises:
        MalformedReply: its type, shape and bytes do not belong together.
    """
    name, shape, data = tensor.name, tuple(tensor.shape), tensor.data
    if tensor.data_type == DataType.DATA_TYPE_BYTES:
        return _read_texts(tensor)
    is_bf16 = tensor.data_type == DataType.DATA_TYPE_BF16
    dtype = np.dtype("<u2") if is_bf16 else _DTYPES.get(tensor.data_type)
    kind = get_type_name(tensor.data_type)
    if dtype is None:
        raise MalformedReply(
            f"output {name!r} has data type {kind}, which this client does not know; "
            "expected one of starling.tensor.v1.DataType; is the client older than the node?"
        )
    if any(size < 0 for size in shape):
        raise MalformedReply(f"output {name!r} has shape {list(shape)}; no dimension is negative")
    size = math.prod(shape) * dtype.itemsize
    if len(data) != size:
        raise MalformedReply(f"output {name!r} has {len(data)} bytes; {kind}{list(shape)} needs {size}")
    flat = np.frombuffer(data, dtype) if size else np.zeros(0, dtype)
    flat.flags.writeable = False
    if tensor.data_type == DataType.DATA_TYPE_BOOL and (flat.view(np.uint8) > 1).any():
        raise MalformedReply(f"output {name!r} is BOOL and has bytes other than 0 and 1")
    return (_read_bf16(flat) if is_bf16 else flat).reshape(shape)


def get_texts(array: Array) -> Array:
    """Returns an array for people to read: bytes as the UTF-8 that they are, or escaped; others as they are."""
    if array.dtype.kind != "O":
        return array
    texts = [bytes(element).decode(errors="backslashreplace") for element in array.reshape(-1).tolist()]
    return np.array(texts, np.str_).reshape(array.shape)


def _pack_texts(name: str, array: Array) -> bytes:
    out = bytearray()
    for index, element in enumerate(array.reshape(-1).tolist()):
        if not isinstance(element, bytes | str):
            raise InvalidInput(
                f"input {name!r} has a {type(element).__name__} as element {index}; expected bytes or str; convert it"
            )
        text = element.encode() if isinstance(element, str) else element
        out += len(text).to_bytes(_LENGTH_BYTES, "little")
        out += text
    return bytes(out)


def _read_texts(tensor: Tensor) -> Array:
    data, shape = tensor.data, tuple(tensor.shape)
    count, at = math.prod(shape), 0
    texts: list[bytes] = []
    while len(data) - at >= _LENGTH_BYTES and len(texts) < count:
        size = int.from_bytes(data[at : at + _LENGTH_BYTES], "little")
        at += _LENGTH_BYTES + size
        texts.append(data[at - size : at])
    if any(size < 0 for size in shape) or len(texts) != count or at != len(data):
        raise MalformedReply(
            f"output {tensor.name!r} has {len(data)} bytes, which are not the elements of BYTES{list(shape)}"
        )
    array = np.empty(count, object)
    array[:] = texts
    array.flags.writeable = False
    return array.reshape(shape)


def _read_bf16(halves: Array) -> Array:
    """Returns bfloat16 values given as their upper 16 bits."""
    try:
        import ml_dtypes
    except ImportError:
        wide = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
        wide.flags.writeable = False
        return wide
    return halves.view(ml_dtypes.bfloat16)
