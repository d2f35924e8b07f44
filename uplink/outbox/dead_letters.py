"""Asks that were sent too often without an end, laid aside for whoever looks into it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)

_SUFFIX = ".ask"
_ID = re.compile(r"[a-z0-9_-]{1,64}")


class DeadLetters:
    """A folder with one file per ask; beyond ``max_count`` or ``max_bytes`` the oldest go."""

    def __init__(self, folder: Path, *, max_count: int = 100, max_bytes: int) -> None:
        self._folder = folder
        self._max_count = max_count
        self._max_bytes = max_bytes

    def put(self, ask_id: str, payload: bytes) -> bool:
        """Keep an ask as it was stored; False where that cannot be done."""
        if _ID.fullmatch(ask_id) is None:
            return False
        path = self._folder / f"{ask_id}{_SUFFIX}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
                stream.write(payload)
                stream.flush()
                os.fsync(stream.fileno())
            self._trim()
        except OSError as error:
            _log.warning("%s could not be laid aside: %s", ask_id, error)
            return False
        return True

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Yield each ask's id and payload, oldest first."""
        for path in self._paths():
            yield path.name.removesuffix(_SUFFIX), path.read_bytes()

    def drop(self, ask_id: str) -> bool:
        """Remove one; False where there is none."""
        path = self._folder / f"{ask_id}{_SUFFIX}"
        if path not in self._paths():
            return False
        path.unlink(missing_ok=True)
        return True

    def _paths(self) -> list[Path]:
        found = list(self._folder.glob(f"*{_SUFFIX}"))
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _trim(self) -> None:
        paths = self._paths()
        size = sum(path.stat().st_size for path in paths)
        while paths and (len(paths) > self._max_count or size > self._max_bytes):
            oldest = paths.pop(0)
            size -= oldest.stat().st_size
            oldest.unlink()
