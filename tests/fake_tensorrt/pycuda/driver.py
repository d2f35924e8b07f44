"""The fake of pycuda.driver: what hedge calls of it, with pycuda's signatures."""

from __future__ import annotations

import importlib
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_FAKE = importlib.import_module("fake_gpu")
GPU = _FAKE.GPU
Error = _FAKE.Error
LaunchError = _FAKE.LaunchError
LogicError = _FAKE.LogicError
PagelockedHostAllocation = _FAKE.PagelockedHostAllocation
MemoryError = _FAKE.MemoryError  # noqa: A001  pycuda's own name
RuntimeError = _FAKE.RuntimeError  # noqa: A001  pycuda's own name


class device_attribute(IntEnum):  # noqa: N801  pycuda's own name
    """CUdevice_attribute."""

    MULTIPROCESSOR_COUNT = 16


def init(flags: int = 0) -> None:  # noqa: ARG001
    """Start the driver."""
    if GPU.script.devices == 0:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")
    GPU.initialised = True


class Device:
    """A GPU."""

    def __init__(self, ordinal: int, /) -> None:
        GPU.check("cuDeviceGet", needs_context=False)
        if ordinal >= GPU.script.devices:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    @staticmethod
    def count() -> int:
        GPU.check("cuDeviceGetCount", needs_context=False)
        found: int = GPU.script.devices
        return found

    def name(self) -> str:
        found: str = GPU.script.name
        return found

    def compute_capability(self) -> tuple[int, int]:
        found: tuple[int, int] = GPU.script.capability
        return found

    def get_attribute(self, attribute: device_attribute, /) -> int:
        assert attribute is device_attribute.MULTIPROCESSOR_COUNT
        found: int = GPU.script.multiprocessors
        return found

    def retain_primary_context(self) -> Context:
        GPU.check("cuDevicePrimaryCtxRetain", needs_context=False)
        return Context()


class Context:
    """The primary context, retained; not current before it is pushed."""

    def __init__(self) -> None:
        GPU.contexts += 1
        self._is_valid = True

    def push(self) -> None:
        if not self._is_valid:
            raise LogicError("cuCtxPushCurrent failed: invalid device context")
        GPU.stack.append(self)

    @staticmethod
    def pop() -> None:
        if not GPU.stack:
            raise LogicError("context::pop failed: invalid device context")
        GPU.stack.pop()

    def detach(self) -> None:
        if not self._is_valid:
            raise LogicError("context::detach failed: invalid device context")
        self._is_valid = False
        GPU.contexts -= 1
        if GPU.contexts == 0 and GPU.memory:
            raise AssertionError("the context goes before its memory")


class Stream:
    """A queue of work."""

    def __init__(self, flags: int = 0) -> None:  # noqa: ARG002
        GPU.check("cuStreamCreate")
        self.handle = max(GPU.streams, default=0x5000) + 0x10
        GPU.streams[self.handle] = []

    def synchronize(self) -> None:
        GPU.wait(self.handle)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            GPU.streams.pop(self.handle, None)


class DeviceAllocation:
    """Memory on the GPU."""

    def __init__(self, size: int) -> None:
        self._address: int = GPU.allocate(size)
        self._is_valid = True

    def __int__(self) -> int:
        return self._address

    def __index__(self) -> int:
        return self._address

    def free(self) -> None:
        if not self._is_valid:
            raise LogicError("device_allocation::free failed: invalid resource handle")
        self._is_valid = False
        GPU.warn("cuMemFree")
        GPU.memory.pop(self._address, None)

    def __del__(self) -> None:
        if getattr(self, "_is_valid", False):
            self.free()


def mem_alloc(size: int, /) -> DeviceAllocation:
    """Allocate memory on the GPU."""
    return DeviceAllocation(size)


def mem_get_info() -> tuple[int, int]:
    """Return free and total bytes."""
    GPU.check("cuMemGetInfo")
    return GPU.free_bytes(), GPU.script.memory_bytes


def pagelocked_empty(
    shape: Any,  # noqa: ANN401  an int or a tuple
    dtype: DTypeLike,
    order: str = "C",  # noqa: ARG001
    mem_flags: int = 0,  # noqa: ARG001
) -> NDArray[Any]:
    """Return an array in page-locked memory, full of garbage."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    array: NDArray[Any] = np.asarray(PagelockedHostAllocation(sizes, np.dtype(dtype)))
    return array


def memcpy_htod(dest: Any, src: Any) -> None:  # noqa: ANN401  an address, a buffer
    """Copy to the GPU at once."""
    GPU.check("cuMemcpyHtoD")
    data = _contiguous(src)
    GPU.at(int(dest), len(data))[:] = data


def memcpy_htod_async(dest: Any, src: Any, stream: Stream | None = None) -> None:  # noqa: ANN401
    """Copy to the GPU once the stream comes to it."""
    GPU.check("cuMemcpyHtoDAsync")
    data = _contiguous(src)
    if not _FAKE.is_pinned(src):
        data = memoryview(bytes(data))

    def copy() -> None:
        GPU.at(int(dest), len(data))[:] = data

    _queue(stream).append(copy)


def memcpy_dtoh_async(dest: Any, src: Any, stream: Stream | None = None) -> None:  # noqa: ANN401
    """Copy from the GPU once the stream comes to it."""
    GPU.check("cuMemcpyDtoHAsync")
    data = _contiguous(dest)
    assert not data.readonly
    assert _FAKE.is_pinned(dest), "not page-locked, so the copy would wait"

    def copy() -> None:
        data[:] = GPU.at(int(src), len(data))

    _queue(stream).append(copy)


def _contiguous(buffer: Any) -> memoryview:  # noqa: ANN401
    view = memoryview(buffer)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    array = np.asarray(buffer)
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _queue(stream: Stream | None) -> list[Any]:
    if stream is None:
        raise AssertionError("the default stream makes TensorRT wait for the whole device")
    waiting: list[Any] = GPU.streams[stream.handle]
    return waiting
