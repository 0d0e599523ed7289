"""System shared memory over the wire: tensors pass by name, and no region leads out of it or takes the node down."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from starling.inference import open_inference_pb2 as pb

from tests.support.infer_calls import INFER, add_input, control, echo_infer, infer, set_parameters
from tests.support.node import RunningNode, StartNode
from tests.support.node_calls import Refusal, read_refusal, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FRAME = 150_000
PAGE = 4096
NO_OBJECT = ' names no shared memory object; its key is "/" and 1 to 254 bytes without another "/"'
NOT_REGISTERED = 'shared memory region "r" is not registered on this node; register it first'
UNREGISTERED = pb.SystemSharedMemoryUnregisterResponse


@pytest.fixture
def memory(channel: grpc.Channel) -> Iterator[SharedMemory]:
    """An object of two frames and a page; the node forgets its regions afterwards."""
    shared = SharedMemory(create=True, size=2 * FRAME + PAGE)
    yield shared
    control(channel, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(), UNREGISTERED)
    shared.close()
    shared.unlink()


def register(channel: grpc.Channel, memory: SharedMemory, name: str = "r", *, offset: int = 0, size: int = -1) -> None:
    size = memory.size if size < 0 else size
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=f"/{memory.name}", offset=offset, byte_size=size)
    control(channel, "SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)


def place(size: int, offset: int = 0, region: str = "r") -> dict[str, Any]:
    return {
        "shared_memory_region": region,
        "shared_memory_byte_size": size,
        "shared_memory_offset": offset,
    }


def frame_request(given: dict[str, Any], wanted: dict[str, Any] | None = None) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="bytes")
    add_input(request, "x0", "UINT8", (1, FRAME), **given)
    if wanted is not None:
        set_parameters(request.outputs.add(name="y0").parameters, wanted)
    return request


def wrong_size(needed: int, got: int) -> str:
    limit = f"at most {4 << 20}; send row-major elements without padding"
    return f'input "x0" of shape [1, {needed}] needs {needed} bytes, got {got} in shared memory, {limit}'


def refuse(channel: grpc.Channel, request: pb.ModelInferRequest) -> Refusal:
    refusal = refused(lambda: infer(channel, request))
    np.testing.assert_array_equal(np.frombuffer(infer(channel, echo_infer()).raw_output_contents[0], np.float32), 1.5)
    return refusal


def test_tensors_pass_through_shared_memory_both_ways(channel: grpc.Channel, memory: SharedMemory) -> None:
    register(channel, memory)
    frame = np.random.default_rng(3).integers(0, 256, FRAME, np.uint8)
    pixels = np.frombuffer(memory.buf, np.uint8)
    pixels[PAGE : PAGE + FRAME] = frame
    answer = infer(channel, frame_request(place(FRAME, PAGE), place(FRAME, PAGE + FRAME)))
    assert list(answer.raw_output_contents) == [b""]
    parameters = answer.outputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "r"
    assert parameters["shared_memory_byte_size"].int64_param == FRAME
    assert parameters["shared_memory_offset"].int64_param == PAGE + FRAME
    np.testing.assert_array_equal(pixels[PAGE + FRAME :][:FRAME], frame)
    assert not pixels[:PAGE].any(), "bytes outside of the range changed"
    del pixels


def test_a_request_may_mix_shared_memory_and_raw_bytes(channel: grpc.Channel, memory: SharedMemory) -> None:
    register(channel, memory)
    memory.buf[:3] = b"abc"
    request = pb.ModelInferRequest(model_name="every-type")
    kinds = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64")
    widths = (1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8)
    for i, (kind, width) in enumerate(zip(kinds, widths, strict=True)):
        if kind == "UINT8":
            add_input(request, f"x{i}", kind, (1, 3), **place(3))
        else:
            add_input(request, f"x{i}", kind, (1, 3), bytes([i]) * width * 3)
    raw = infer(channel, request).raw_output_contents
    assert raw[1] == b"abc"
    assert raw[4] == bytes([4]) * 24


def test_status_lists_what_is_registered_until_it_is_forgotten(channel: grpc.Channel, memory: SharedMemory) -> None:
    def status(name: str = "") -> dict[str, tuple[str, int, int]]:
        request = pb.SystemSharedMemoryStatusRequest(name=name)
        answer = control(channel, "SystemSharedMemoryStatus", request, pb.SystemSharedMemoryStatusResponse)
        return {name: (one.key, one.offset, one.byte_size) for name, one in answer.regions.items()}

    register(channel, memory, "a", offset=1, size=2)
    register(channel, memory, "b")
    key = f"/{memory.name}"
    assert status() == {"a": (key, 1, 2), "b": (key, 0, memory.size)}
    assert status("a") == {"a": (key, 1, 2)}
    control(channel, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="a"), UNREGISTERED)
    control(channel, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="a"), UNREGISTERED)
    assert list(status()) == ["b"]
    gone = refused(lambda: status("a"))
    assert (gone.code, gone.text) == (
        grpc.StatusCode.NOT_FOUND,
        'shared memory region "a" is not registered on this node',
    )


@pytest.mark.parametrize(
    ("key", "offset", "size", "text"),
    [
        (
            *("/starling-nobody", 0, 1),
            ': object "/starling-nobody" cannot be opened: No such file or directory; create it on the machine of this '
            "node, readable and writable by it",
        ),
        ("", 0, 1, NO_OBJECT),
        ("/../etc/passwd", 0, 1, NO_OBJECT),
        ("/..", 0, 1, NO_OBJECT),
        (None, 0, 0, " has offset 0 and 0 bytes, wanted at least 1 byte within 2^62"),
        (None, 0, 1 << 40, " ends at byte 1099511627776, its object {object}; register what it holds"),
        (None, 1 << 40, 1, " ends at byte 1099511627777, its object {object}; register what it holds"),
        (None, 2**64 - 1, 2, f" has offset {2**64 - 1} and 2 bytes, wanted at least 1 byte within 2^62"),
    ],
)
def test_a_region_that_no_object_holds_is_refused(
    channel: grpc.Channel,
    memory: SharedMemory,
    key: str | None,
    offset: int,
    size: int,
    text: str,
) -> None:
    request = pb.SystemSharedMemoryRegisterRequest(
        name="bad", key=f"/{memory.name}" if key is None else key, offset=offset, byte_size=size
    )
    refusal = refused(
        lambda: control(channel, "SystemSharedMemoryRegister", request, pb.SystemSharedMemoryRegisterResponse)
    )
    held = f'"/{memory.name}" has {memory.size} bytes'
    assert (refusal.code, refusal.text) == (INVALID, 'shared memory region "bad"' + text.format(object=held))


def test_a_name_is_taken_once(channel: grpc.Channel, memory: SharedMemory) -> None:
    register(channel, memory)
    refusal = refused(lambda: register(channel, memory))
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    assert refusal.text == 'shared memory region "r" is registered already; unregister it, or take another name'


@pytest.mark.parametrize(("size", "offset"), [(FRAME, FRAME), (FRAME, 2**63 - 1), (2**63 - 1, 1), (2**62, 2**62)])
def test_no_range_leaves_its_region(channel: grpc.Channel, memory: SharedMemory, size: int, offset: int) -> None:
    register(channel, memory, size=FRAME)
    asked = f"{size} at offset {offset} are not in it; name a range inside of it"
    outside = f'shared memory region "r" has {FRAME} bytes, {asked}'
    given = refuse(channel, frame_request(place(size, offset)))
    assert (given.code, given.text) == (INVALID, outside if size == FRAME else wrong_size(FRAME, size))
    wanted = refuse(channel, frame_request(place(FRAME), place(size, offset)))
    assert (wanted.code, wanted.text) == (INVALID, outside)


def test_a_range_of_another_size_than_the_tensor_is_refused(channel: grpc.Channel, memory: SharedMemory) -> None:
    register(channel, memory)
    short = refuse(channel, frame_request(place(FRAME - 1)))
    assert (short.code, short.text) == (INVALID, wrong_size(FRAME, FRAME - 1))
    little = refuse(channel, frame_request(place(FRAME), place(FRAME - 1)))
    named = f'the {FRAME - 1} named in shared memory region "r" do not hold them; raise shared_memory_byte_size'
    assert (little.code, little.text) == (INVALID, f'output "y0" has {FRAME} bytes, {named}')


def test_an_object_that_shrinks_ends_a_request_and_not_the_node(channel: grpc.Channel, memory: SharedMemory) -> None:
    register(channel, memory)
    with Path("/dev/shm", memory.name).open("r+b") as file:
        file.truncate(PAGE)
        refusal = refuse(channel, frame_request(place(FRAME)))
        smaller = f'its object "/{memory.name}" was made smaller after it was registered; register it again'
        ended = f'shared memory region "r" ended at byte {PAGE} of {memory.size}: {smaller}'
        assert (refusal.code, refusal.text) == (INVALID, ended)
        file.truncate(memory.size)
    assert infer(channel, frame_request(place(FRAME))).outputs[0].name == "y0"


def test_no_memory_is_taken_for_a_tensor_larger_than_a_message(channel: grpc.Channel, memory: SharedMemory) -> None:
    register(channel, memory)
    request = pb.ModelInferRequest(model_name="bytes")
    add_input(request, "x0", "UINT8", (1, 1 << 40), **place(1 << 40))
    refusal = refuse(channel, request)
    assert (refusal.code, refusal.text) == (INVALID, wrong_size(1 << 40, 1 << 40))


def test_texts_pass_through_shared_memory_and_are_checked_in_the_batch(
    channel: grpc.Channel, memory: SharedMemory
) -> None:
    register(channel, memory)
    raw = b"\4\0\0\0four\0\0\0\0"
    memory.buf[: len(raw)] = raw

    def request(size: int) -> pb.ModelInferRequest:
        message = pb.ModelInferRequest(model_name="texts")
        add_input(message, "x0", "BYTES", (1, 2), **place(size))
        set_parameters(message.outputs.add(name="y0").parameters, place(64, PAGE))
        return message

    answer = infer(channel, request(len(raw)))
    assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == len(raw)
    assert bytes(memory.buf[PAGE : PAGE + len(raw)]) == raw

    def malformed(what: str) -> str:
        end = "put its length before each element, 4 bytes little-endian"
        return f'signature mismatch: texts:1 input "x0" of shape [1, 2] is no tensor of BYTES: {what}; {end}'

    cut = refuse(channel, request(len(raw) - 1))
    assert (cut.code, cut.text) == (INVALID, malformed("element 1 of 2 has no length: 3 bytes are left"))
    short = refuse(channel, request(7))
    assert short.text.startswith('input "x0" of shape [1, 2] needs at least 8 bytes, got 7 in shared memory, at most')
    memory.buf[:4] = b"\xff\xff\xff\xff"
    huge = refuse(channel, request(len(raw)))
    assert huge.text == malformed("element 0 of 2 says that it has 4294967295 bytes, 8 are left")


def test_a_tensor_in_shared_memory_is_copied_once_each_way(
    node: RunningNode, channel: grpc.Channel, memory: SharedMemory
) -> None:
    def copied(request: pb.ModelInferRequest) -> tuple[float, float]:
        names = [f"starling_tensor_bytes_{way}_copied_total" for way in ("in", "out")]
        before = [node.count(name) for name in names]
        infer(channel, request)
        into, out = (node.count(name) - was for name, was in zip(names, before, strict=True))
        return into / FRAME, out / FRAME

    register(channel, memory)
    assert copied(frame_request(place(FRAME), place(FRAME, PAGE + FRAME))) == (0, 0)


def test_a_removed_object_lives_until_it_is_forgotten(channel: grpc.Channel, memory: SharedMemory) -> None:
    other = SharedMemory(create=True, size=FRAME)
    register(channel, other, "gone")
    other.buf[:4] = b"left"
    other.close()
    other.unlink()
    assert infer(channel, frame_request(place(FRAME, region="gone"))).raw_output_contents[0][:4] == b"left"


def test_a_region_may_be_removed_while_requests_use_it(channel: grpc.Channel, memory: SharedMemory) -> None:
    other = SharedMemory(create=True, size=FRAME)
    method = channel.unary_unary(INFER, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
    memory.buf[:4] = b"mine"
    register(channel, memory)
    try:
        calls = []
        for _ in range(4):
            calls += [method.future(frame_request(place(FRAME), place(FRAME, FRAME)), timeout=30) for _ in range(8)]
            control(channel, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(), UNREGISTERED)
            # The same name, for an object that has no room for the outputs.
            register(channel, other)
            control(channel, "SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(), UNREGISTERED)
            register(channel, memory)
        outside = f'"r" has {FRAME} bytes, {FRAME} at offset {FRAME} are not in it; name a range inside of it'
        for call in calls:
            # What was found before it was removed is used to the end.
            if call.exception() is None:
                assert call.result().outputs[0].parameters["shared_memory_offset"].int64_param == FRAME
            else:
                refusal = read_refusal(call.exception())
                assert refusal.code is INVALID
                assert refusal.text in (f"shared memory region {outside}", NOT_REGISTERED)
        assert bytes(other.buf) == bytes(FRAME)
        assert infer(channel, frame_request(place(FRAME), place(FRAME, FRAME))).outputs[0].name == "y0"
        assert bytes(memory.buf[FRAME : FRAME + 4]) == b"mine"
    finally:
        other.close()
        other.unlink()


def test_cuda_memory_is_refused_with_a_reason(channel: grpc.Channel) -> None:
    status = control(
        channel, "CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(), pb.CudaSharedMemoryStatusResponse
    )
    assert not status.regions
    unregister = pb.CudaSharedMemoryUnregisterRequest()
    control(channel, "CudaSharedMemoryUnregister", unregister, pb.CudaSharedMemoryUnregisterResponse)
    request = pb.CudaSharedMemoryRegisterRequest(name="c", byte_size=1)
    refusal = refused(
        lambda: control(channel, "CudaSharedMemoryRegister", request, pb.CudaSharedMemoryRegisterResponse)
    )
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    reason = "this node runs on a CPU; register system shared memory instead"
    assert refusal.text == f'CUDA region "c" cannot be opened: {reason}'


def test_shared_memory_can_be_switched_off(start_node: StartNode, repository: Any, memory: SharedMemory) -> None:
    node = start_node(repository, "--shared-memory-mib-max", "0")
    with node.connect() as channel:
        refusal = refused(lambda: register(channel, memory))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "raise --shared-memory-mib-max" in refusal.text
