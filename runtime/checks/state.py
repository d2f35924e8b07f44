"""The state directory: the session counter and the outbox live there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...uplink.outbox.owner import is_owned
from ..config import OUTBOX, Config
from .finding import Finding, error, ok
from .places import why_no_folder


def check_state(config: Config, *, base: Path) -> Iterator[Finding]:
    """Yield whether the device can keep its state."""
    folder = base / config.device.state_dir
    why = why_no_folder(folder)
    if why is not None:
        yield error(
            "state",
            str(folder),
            f"cannot be used: {why}",
            where="device.state_dir",
            todo="name a folder that the device's user may write",
        )
    elif is_owned(folder / OUTBOX):
        yield ok("state", str(folder), "a daemon is using it now")
    else:
        yield ok("state", str(folder), "can be written" if folder.exists() else "can be made")
