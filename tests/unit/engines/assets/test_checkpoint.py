"""Tests of the reader of PyTorch state dicts, on files written by hand."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import CorruptModel
from engines.assets.checkpoint import read_state_dict

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


class Writer:
    """Writes pickles by opcode, as PyTorch would."""

    def __init__(self) -> None:
        self.raw = b"\x80\x02"

    def call(self, module: str, name: str, arguments: bytes) -> bytes:
        return b"c" + module.encode() + b"\n" + name.encode() + b"\n" + arguments + b"R"

    @staticmethod
    def value(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    def tensor(self, key: str, length: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
        storage = b"(" + self.value("storage") + b"ctorch\nFloatStorage\n"
        storage += self.value(key) + self.value("cpu") + self.value(length) + b"tQ"
        arguments = b"(" + storage + self.value(offset) + self.value(shape) + self.value(strides) + self.value(False)
        arguments += self.value(None) + b"t"
        return self.call("torch._utils", "_rebuild_tensor_v2", arguments)

    def state_dict(self, name: str, tensor: bytes) -> bytes:
        return b"\x80\x02}" + self.value(name) + tensor + b"s."


def zipped(body: bytes, storage: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("net/data.pkl", body)
        archive.writestr("net/data/0", storage)
    return raw.getvalue()


def legacy(body: bytes, storage: bytes, count: int) -> bytes:
    preamble = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return preamble + body + pickle.dumps(["0"], 2) + count.to_bytes(8, "little") + storage


def body(offset: int = 0, shape: tuple[int, ...] = (3, 4), strides: tuple[int, ...] = (4, 1)) -> bytes:
    writer = Writer()
    return writer.state_dict("net.weight", writer.tensor("0", 12, offset, shape, strides))


def test_both_formats_are_read() -> None:
    for raw in (zipped(body(), WEIGHT.tobytes()), legacy(body(), WEIGHT.tobytes(), 12)):
        (name, found), *others = read_state_dict(raw).items()
        assert (name, others) == ("net.weight", [])
        np.testing.assert_array_equal(found, WEIGHT)


def test_offsets_and_strides_are_followed() -> None:
    raw = zipped(body(offset=4, shape=(4, 2), strides=(1, 4)), WEIGHT.tobytes())
    np.testing.assert_array_equal(read_state_dict(raw)["net.weight"], WEIGHT[1:].T)


@pytest.mark.parametrize(
    "wrong", [body(offset=1), body(shape=(4, 4)), body(strides=(-4, 1)), body(offset=-1), body(strides=(1 << 40, 1))]
)
def test_tensors_cannot_reach_outside_of_their_storage(wrong: bytes) -> None:
    with pytest.raises(CorruptModel, match="outside of its storage"):
        read_state_dict(zipped(wrong, WEIGHT.tobytes()))


def test_truncated_storage_is_refused() -> None:
    with pytest.raises(CorruptModel, match="too short"):
        read_state_dict(zipped(body(), WEIGHT.tobytes()[:-4]))
    with pytest.raises(CorruptModel):
        read_state_dict(legacy(body(), WEIGHT.tobytes()[:-4], 12))


class Exploit:
    """Asks the reader to run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/starling-was-here",)


@pytest.mark.parametrize("wrap", [lambda raw: zipped(raw, b""), lambda raw: legacy(raw, b"", 0), lambda raw: raw])
def test_pickles_cannot_run_anything(wrap: Any) -> None:
    with pytest.raises(CorruptModel, match="expected only tensors; do not trust"):
        read_state_dict(wrap(pickle.dumps(OrderedDict(a=Exploit()), 2)))


@given(st.binary(max_size=200))
def test_random_bytes_are_corrupt_models(raw: bytes) -> None:
    with pytest.raises(CorruptModel):
        read_state_dict(raw)
