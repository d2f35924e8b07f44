"""How much memory may still be taken: what is free, and what the control groups leave of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

_GROUPS = "sys/fs/cgroup"


def free_bytes(*, root: Path = Path("/"), available_bytes: int | None = None) -> int:
    """Return how much this process may still take; ``available_bytes`` is what the system has free.

    A service or a container may be allowed less than that (cgroup v2, memory.max). Pages of
    files that nobody has touched lately count as free, since they are given back on demand.
    """
    system = psutil.virtual_memory().available if available_bytes is None else available_bytes
    return max(0, min((system, *_left(root))))


def _left(root: Path) -> Iterator[int]:
    """Yield what each group leaves that this process is in, and that has a limit."""
    with contextlib.suppress(OSError):
        found = re.search(r"^0::/(.*)$", (root / "proc/self/cgroup").read_text(), re.MULTILINE)
        own = Path("." if found is None else found[1])
        for group in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):
                folder = root / _GROUPS / group
                limit = int((folder / "memory.max").read_text())  # "max" is none
                used = int((folder / "memory.current").read_text())
                yield limit - used + _idle(folder / "memory.stat")


def _idle(stat: Path) -> int:
    found = re.search(r"^inactive_file (\d+)$", stat.read_text(), re.MULTILINE)
    return 0 if found is None else int(found[1])
