"""The names of devices that stay their own, whatever else is plugged in: udev's by-id links."""

from __future__ import annotations

import contextlib

from ...telemetry.boards.tree import Tree


def names_by_node(tree: Tree, folder: str) -> dict[str, str]:
    """Return by node ("ttyUSB0") the first link in ``folder`` that leads to it."""
    found: dict[str, str] = {}
    for name in tree.names(folder):
        with contextlib.suppress(OSError):
            found.setdefault((tree.root / folder / name).readlink().name, name)
    return found
