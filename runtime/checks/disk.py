"""The free disk, against what the outbox and the kept outcomes may take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config import OUTBOX, Config, MqttSinkConfig
from .amounts import size_text
from .finding import Finding, error, ok, warning
from .places import nearest, why_no_folder

_LEAST_BYTES = 1 << 20  # for the session counter and other small things


def check_disk(config: Config, *, base: Path) -> Iterator[Finding]:
    """Yield whether what may be stored fits on the disk of the state directory.

    Where that cannot be used at all, which is the finding of another area, there is none here.
    """
    state = base / config.device.state_dir
    if why_no_folder(state) is not None:
        return
    found = os.statvfs(nearest(state))
    free = found.f_bavail * found.f_frsize
    uplink = config.uplink
    on_disk = uplink is not None and uplink.outbox == "disk"
    keep_free = uplink.min_free_bytes if uplink is not None and on_disk else 0
    wanted = (uplink.outbox_bytes if uplink is not None and on_disk else 0) + sum(
        sink.keep_bytes
        for sink in config.sink
        if isinstance(sink, MqttSinkConfig) and sink.keep == "disk"
    )
    wanted = max(_LEAST_BYTES, wanted - _taken(state / OUTBOX))
    text = f"{size_text(free)} free; up to {size_text(wanted)} more may be stored"
    if free < keep_free + _LEAST_BYTES:
        yield error(
            "disk",
            str(state),
            f"{size_text(free)} free, of which {size_text(keep_free)} are left to others: "
            "nothing can be stored",
            todo="make room, or lower uplink.min_free_bytes",
        )
    elif free < keep_free + wanted:
        yield warning(
            "disk",
            str(state),
            f"{text}, and {size_text(keep_free)} are left to others",
            todo="make room, or lower uplink.outbox_bytes; else asks are given up earlier",
        )
    else:
        yield ok("disk", str(state), text)


def _taken(folder: Path) -> int:
    """Return how much the outbox holds already."""
    files = [one for one in folder.rglob("*") if one.is_file()] if folder.is_dir() else []
    return sum(one.stat().st_size for one in files)
