"""The memory of a closed model, given back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Let glibc return what is free; other C libraries keep nothing back, or cannot be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
