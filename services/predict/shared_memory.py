"""Shared memory of the Open Inference Protocol: the six methods that say which regions requests may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from starling.inference import open_inference_pb2 as pb

from services.predict.control import Method

_SERVICE = "inference.GRPCInferenceService"


class RegionNotFound(Exception):
    """No region of that name is registered."""

    status = "NOT_FOUND"
    reason = "REGION_NOT_FOUND"


class CudaUnavailable(Exception):
    """This node has no GPU whose memory could be opened."""

    status = "UNIMPLEMENTED"
    reason = "CUDA_UNAVAILABLE"


class Regions(Protocol):
    """Where regions are kept; the native server."""

    def register_region(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Opens a region."""

    def unregister_region(self, name: str) -> None:
        """Forgets a region, or all for an empty name."""

    def regions(self) -> list[tuple[str, str, int, int]]:
        """Returns name, key, offset and byte_size of each."""


class SharedMemoryService:
    """Answers the methods. The regions come later than the methods, because the server must know those first."""

    def __init__(self) -> None:
        self._regions: Regions | None = None

    def attach(self, regions: Regions) -> None:
        """Uses these regions from now on."""
        self._regions = regions

    def methods(self) -> Mapping[str, Method]:
        """Returns the methods by their full names."""
        return {
            f"/{_SERVICE}/SystemSharedMemoryStatus": Method(pb.SystemSharedMemoryStatusRequest, self.status),
            f"/{_SERVICE}/SystemSharedMemoryRegister": Method(pb.SystemSharedMemoryRegisterRequest, self.register),
            f"/{_SERVICE}/SystemSharedMemoryUnregister": Method(
                pb.SystemSharedMemoryUnregisterRequest, self.unregister
            ),
            f"/{_SERVICE}/CudaSharedMemoryStatus": Method(pb.CudaSharedMemoryStatusRequest, self.cuda_status),
            f"/{_SERVICE}/CudaSharedMemoryRegister": Method(pb.CudaSharedMemoryRegisterRequest, self.cuda_register),
            f"/{_SERVICE}/CudaSharedMemoryUnregister": Method(
                pb.CudaSharedMemoryUnregisterRequest, self.cuda_unregister
            ),
        }

    def status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        """Returns one region, or all.

        Raises:
            RegionNotFound: a region is named and not registered.
        """
        response = pb.SystemSharedMemoryStatusResponse()
        for name, key, offset, byte_size in self._attached.regions():
            if request.name in ("", name):
                region = response.regions[name]
                region.name, region.key, region.offset, region.byte_size = name, key, offset, byte_size
        if request.name and not response.regions:
            raise RegionNotFound(f'shared memory region "{request.name}" is not registered on this node')
        return response

    def register(self, request: pb.SystemSharedMemoryRegisterRequest) -> pb.SystemSharedMemoryRegisterResponse:
        """Opens a region.

        Raises:
            InvalidInput: the object cannot be opened, or does not hold the region.
            AlreadyExists: the name is taken.
            QueueFull: all regions together would be too much.
        """
        self._attached.register_region(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister(self, request: pb.SystemSharedMemoryUnregisterRequest) -> pb.SystemSharedMemoryUnregisterResponse:
        """Forgets a region, or all; one that is not known is forgotten already."""
        self._attached.unregister_region(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def cuda_status(self, _request: pb.CudaSharedMemoryStatusRequest) -> pb.CudaSharedMemoryStatusResponse:
        """Returns no region."""
        return pb.CudaSharedMemoryStatusResponse()

    def cuda_register(self, request: pb.CudaSharedMemoryRegisterRequest) -> pb.CudaSharedMemoryRegisterResponse:
        """Opens nothing.

        Raises:
            CudaUnavailable: always.
        """
        raise CudaUnavailable(
            f'CUDA region "{request.name}" cannot be opened: this node runs on a CPU; '
            "register system shared memory instead"
        )

    def cuda_unregister(self, _request: pb.CudaSharedMemoryUnregisterRequest) -> pb.CudaSharedMemoryUnregisterResponse:
        """Does nothing: clients forget every region before they start."""
        return pb.CudaSharedMemoryUnregisterResponse()

    @property
    def _attached(self) -> Regions:
        assert self._regions is not None, "attach() comes before the first call"
        return self._regions
