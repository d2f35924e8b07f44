"""The free memory, against what the models took in their probes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ...telemetry.boards.detect import Detected
from ..probe.free_memory import free_bytes
from ..probe.messages import Probed
from .amounts import size_text
from .finding import Finding, error, ok, warning

_DAEMON_BYTES = 60_000_000  # what it takes without any model
_KEEP_FREE_BYTES = 64 << 20  # for everything else, where no profile says how much


def check_memory(found: Detected, probed: Iterable[Probed], *, root: Path) -> Iterator[Finding]:
    """Yield whether the daemon and its models fit into what is free.

    Each model counts with all that came with it, its library too: rather too much.
    """
    needed = _DAEMON_BYTES + sum(one.model_bytes for one in probed)
    free = free_bytes(root=root, available_bytes=found.available_bytes)
    keep = _KEEP_FREE_BYTES
    if found.profile is not None:
        keep = found.profile.memory.keep_free_mib << 20
    text = f"{size_text(free)} free; the daemon with its models takes about {size_text(needed)}"
    if needed > free:
        yield error("memory", "free", text, todo="end other programs, or choose smaller variants")
    elif needed + keep > free:
        yield warning(
            "memory",
            "free",
            f"{text}, which leaves less than {size_text(keep)}",
            todo="end other programs, or choose smaller variants",
        )
    else:
        yield ok("memory", "free", text)
