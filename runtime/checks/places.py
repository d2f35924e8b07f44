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
