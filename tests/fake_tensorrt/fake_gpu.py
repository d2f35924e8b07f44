"""A GPU that is not there: its memory, streams and context, and how it misbehaves when told to.

What is sent to a stream happens when somebody waits for the stream, in order and not before.
Memory is what it was before it is written: garbage. An access outside of what is allocated ends
the context, as CUDA's sticky errors do. Page-locked memory is read when the copy happens,
other memory when it is asked for. `FAKE_GPU` in the environment holds a `Script` as JSON, for
processes that a test only starts.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ENVIRON = "FAKE_GPU"
_GARBAGE = 0xA5
_FIRST = 0x7F00_0000_0000


class Error(Exception):
    """CUDA failed; pycuda.driver.Error."""


class MemoryError(Error):  # noqa: A001  pycuda's own name
    """CUDA_ERROR_OUT_OF_MEMORY."""


class LogicError(Error):
    """What pycuda raises for all that it has no other class for."""


class LaunchError(Error):
    """CUDA_ERROR_LAUNCH_FAILED and its like."""


class RuntimeError(Error):  # noqa: A001  pycuda's own name
    """CUDA_ERROR_NO_DEVICE and its like."""


@dataclass
class Script:
    """What the GPU is, and what goes wrong with it; the n-th is counted from 1."""

    devices: int = 1
    name: str = "Fake Orin"
    capability: tuple[int, int] = (8, 7)
    multiprocessors: int = 8
    tensorrt: str = "10.3.0"
    memory_bytes: int = 64 << 20
    pinned_bytes: int = 64 << 20
    lost_at: int | None = None  # execution that ends the context
    refused_at: int | None = None  # execution that TensorRT refuses
    shapes_refused: bool = False
    memory_refused: bool = False  # addresses
    context_refused: bool = False
    plan_too_large: bool = False  # for the memory that there is
    infinite: bool = False  # outputs, as float16 overflows
    build: str = "works"  # works, fails, hangs, crashes
    parse_error: str | None = None
    step_s: float = 0.0  # of a build

    @classmethod
    def from_environ(cls) -> Script:
        """Return the script that the test has left in the environment."""
        told = json.loads(os.environ.get(ENVIRON, "{}"))
        if "capability" in told:
            told["capability"] = tuple(told["capability"])
        return cls(**told)


class Gpu:
    """The state behind the fake modules; there is one in a process, as there is one driver."""

    def __init__(self) -> None:
        self.script = Script.from_environ()
        self.reset()

    def reset(self) -> None:
        """Forget everything, as a new process would."""
        self.initialised = False
        self.lost: str | None = None
        self.memory: dict[int, bytearray] = {}
        self.reserved_bytes = 0
        self.pinned_bytes = 0
        self.contexts = 0  # retained
        self.stack: list[object] = []
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.executions = 0
        self.shapes_set = 0
        self.next_address = _FIRST

    # ---- what both modules call

    def check(self, routine: str, *, needs_context: bool = True) -> None:
        """Fail as every routine does without driver or context, and after a loss."""
        if not self.initialised:
            raise LogicError(f"{routine} failed: initialization error")
        if needs_context and not self.stack:
            raise LogicError(f"{routine} failed: invalid device context")
        if self.lost is not None:
            kind = LaunchError if "launch" in self.lost else LogicError
            raise kind(f"{routine} failed: {self.lost}")

    def free_bytes(self) -> int:
        """Return how much memory is left."""
        return (
            self.script.memory_bytes
            - self.reserved_bytes
            - sum(len(one) for one in self.memory.values())
        )

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes of garbage."""
        self.check("cuMemAlloc")
        if size == 0:
            raise LogicError("cuMemAlloc failed: invalid argument")
        if size > self.free_bytes():
            raise MemoryError("cuMemAlloc failed: out of memory")
        address = self.next_address
        self.next_address += (size + 511) // 256 * 256
        self.memory[address] = bytearray([_GARBAGE]) * size
        return address

    def at(self, address: int, size: int) -> memoryview:
        """Return ``size`` bytes at ``address``; an access outside ends the context."""
        for base, held in self.memory.items():
            if base <= address and address + size <= base + len(held):
                return memoryview(held)[address - base : address - base + size]
        self.lost = "an illegal memory access was encountered"
        raise LogicError(f"cuStreamSynchronize failed: {self.lost}")

    def wait(self, handle: int) -> None:
        """Do what waits in a stream."""
        self.check("cuStreamSynchronize")
        pending, self.streams[handle] = self.streams[handle], []
        for happen in pending:
            happen()
            self.check("cuStreamSynchronize")

    def left_over(self) -> dict[str, int]:
        """Return what nobody has freed."""
        found = {
            "memory": len(self.memory),
            "reserved": self.reserved_bytes,
            "pinned": self.pinned_bytes,
            "contexts": self.contexts,
            "pushed": len(self.stack),
            "streams": len(self.streams),
        }
        return {name: count for name, count in found.items() if count}

    def warn(self, routine: str) -> None:
        """Say what pycuda says where a clean-up fails, which it does not raise."""
        if self.lost is not None:
            print(f"PyCUDA WARNING: {routine} failed: {self.lost}", file=sys.stderr)  # noqa: T201


GPU = Gpu()


class PagelockedHostAllocation:
    """Page-locked memory, the base of the array that stands for it."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        GPU.check("cuMemHostAlloc")
        if GPU.pinned_bytes + size > GPU.script.pinned_bytes:
            raise MemoryError("cuMemHostAlloc failed: out of memory")
        GPU.pinned_bytes += size
        self._size = size
        self._is_valid = True
        self._held = np.full(max(size, 1), _GARBAGE, np.uint8)
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (self._held.ctypes.data, False),
            "version": 3,
        }

    def free(self) -> None:
        if not self._is_valid:
            raise LogicError("pagelocked_host_allocation::free failed: invalid resource handle")
        self._is_valid = False
        GPU.warn("cuMemFreeHost")
        GPU.pinned_bytes -= self._size
        self._held[:] = _GARBAGE

    def __del__(self) -> None:
        if getattr(self, "_is_valid", False):
            self.free()


def is_pinned(array: object) -> bool:
    """Tell whether an array lies in page-locked memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, PagelockedHostAllocation)
