"""Whether a place on the disk will do, told without leaving anything there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def nearest(path: Path) -> Path:
    """Return ``path``, or the closest folder above it that exists."""
    return next(one for one in (path, *path.parents) if os.path.lexists(one))


def why_no_folder(folder: Path) -> str | None:
    """Return why ``folder`` cannot be made or written into; None: it can."""
    there = nearest(folder)
    if not there.is_dir():
        return f"{there} is no folder"
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"{there} cannot be written: {error.strerror}"


def size_text(size_bytes: float) -> str:
    """Return a size for people: MB and GB of 1000 each."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes:.0f} B"
