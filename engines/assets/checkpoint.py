"""Reads PyTorch state dicts without PyTorch, and without running what a pickle asks to run.

Only the handful of names that a state dict needs can be resolved; anything else in the pickle is refused.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import CorruptModel

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_PREAMBLE_PICKLES = 3  # magic number, protocol version, system information


@dataclass(slots=True)
class _Storage:
    dtype: np.dtype[Any]
    length: int
    data: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> npt.NDArray[Any]:
        data = self.storage.data
        if data is None or len(data) < self.storage.length:
            raise ValueError("a tensor's storage is missing or too short")
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if min((self.offset, reach, *self.strides, *self.shape)) < 0 or self.offset + reach >= len(data):
            raise ValueError("a tensor reaches outside of its storage")
        strides = [step * data.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides)
        return view.copy()


def read_state_dict(raw: bytes) -> dict[str, npt.NDArray[Any]]:
    """Returns the tensors of a `.pth` file by name, both of the zip format and of the one before it.

    Raises:
        CorruptModel: not a state dict, truncated, or a pickle that asks for anything but tensors.
    """
    try:
        stream = io.BytesIO(raw)
        found = _read_zip(stream) if zipfile.is_zipfile(stream) else _read_legacy(io.BytesIO(raw))
        while isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
            found = found["state_dict"]
        return {str(name): one.array() for name, one in found.items() if isinstance(one, _Tensor)}
    except CorruptModel:
        raise
    except Exception as error:  # a hostile pickle can raise anything while it is decoded
        raise CorruptModel(f"not a readable state dict ({type(error).__name__}: {error}); download it again") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if module == "torch" and name in _DTYPES:
            return name
        if (module, name) not in known:
            raise CorruptModel(f"the pickle asks for {module}.{name}; expected only tensors; do not trust this file")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, length = pid[:5]
        return self.storages.setdefault(key, _Storage(np.dtype(_DTYPES[kind]), int(length)))


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _read_zip(stream: io.BytesIO) -> Any:
    with zipfile.ZipFile(stream) as archive:
        root = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        reader = _Unpickler(io.BytesIO(archive.read(root)))
        result = reader.load()
        for key, storage in reader.storages.items():
            raw = archive.read(f"{root.removesuffix('data.pkl')}data/{key}")
            storage.data = np.frombuffer(raw, storage.dtype)
        return result


def _read_legacy(stream: io.BytesIO) -> Any:
    for _ in range(_PREAMBLE_PICKLES):
        _Unpickler(stream).load()
    reader = _Unpickler(stream)
    result = reader.load()
    for key in _Unpickler(stream).load():
        storage = reader.storages[key]
        count = int.from_bytes(stream.read(8), "little")
        raw = stream.read(count * storage.dtype.itemsize)
        storage.data = np.frombuffer(raw, storage.dtype)
    return result
