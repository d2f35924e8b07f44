"""What is set aside from a log: copies of damaged files, and files of a later version."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from .log_files import FORMAT, TAIL, Row, file_name

_log = logging.getLogger(__name__)

QUARANTINE = "quarantine"
_MAX_FILES = 8


def quarantine(folder: Path, segments: Sequence[int]) -> None:
    """Keep copies of damaged files for whoever looks into it; the oldest copies go.

    That must not cost the disk its last room: without twice as much, there is no copy.
    """
    place = folder / QUARANTINE
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        for segment in segments[-_MAX_FILES:]:
            path, copy = folder / file_name(segment), place / file_name(segment)
            if path.is_file() and 2 * path.stat().st_size < shutil.disk_usage(folder).free:
                copy.touch(mode=0o600)
                shutil.copyfile(path, copy)
        for copy in sorted(place.glob("*.log"))[:-_MAX_FILES]:
            copy.unlink()
    except OSError as error:
        _log.warning("%s: damaged files could not be copied: %s", folder, error)


def own_row(folder: Path) -> Row:
    """Return the files of a log for its owner; those of a later version are set aside.

    Raises:
        OSError: they cannot be.
    """
    row = Row(folder)
    if row.format <= FORMAT:
        return row
    aside = folder / f"format-{row.format}"
    _log.error("%s: of a later version of hedge; set aside in %s", folder, aside)
    aside.mkdir(mode=0o700, exist_ok=True)
    for path in (*folder.glob("*.log"), folder / TAIL):
        if path.exists():
            path.rename(aside / path.name)
    return Row(folder)
