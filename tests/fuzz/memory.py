"""What memory the code under test takes: bounded, or the run fails."""

from __future__ import annotations

import contextlib
import resource
import tracemalloc
from collections.abc import Iterator

import psutil


class MemoryGuardError(AssertionError):
    """More memory was taken than an input may cost."""


def limit(beyond_bytes: int) -> None:
    """Let every allocation fail that takes this process so far beyond what it has now."""
    size = psutil.Process().memory_info().vms + beyond_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


@contextlib.contextmanager
def bounded(peak_bytes: int) -> Iterator[None]:
    """Fail if what runs within ever holds more than that at once.

    Raises:
        MemoryGuardError: it did.
    """
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak > peak_bytes:
        raise MemoryGuardError(f"{peak} bytes at once; at most {peak_bytes} are right")


def resident_bytes() -> int:
    """Return how much memory this process takes."""
    return int(psutil.Process().memory_info().rss)
