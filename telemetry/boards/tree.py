"""A machine's files below a root: what cannot be read is None, and it is noted why."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

MAX_BYTES = 65_536
MAX_NAMES = 512
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


class Tree:
    """Reads small files of /proc, /sys and /etc, or of a copy of them.

    ``seen`` holds what was read, by path; ``unread`` why a file that is there could not
    be, ``present`` what was only asked for being there. They are bounded by what is asked
    for: a file's first 64 KiB, a folder's first 512 names.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[str, str] = {}
        self.unread: dict[str, str] = {}
        self.present: set[str] = set()
        self._real = os.path.realpath(root)

    def text(self, path: str) -> str | None:
        """Return a file's text without trailing NULs and white space; None if not readable."""
        raw = self.raw(path)
        return None if raw is None else raw.strip("\0 \t\r\n")

    def raw(self, path: str) -> str | None:
        """Return a file's text as it is, bytes that are no UTF-8 replaced."""
        if path not in self.seen:
            data = self._bytes(path)
            if data is None:
                return None
            self.seen[path] = data.decode("utf-8", "replace")
        return self.seen[path]

    def number(self, path: str) -> int | None:
        """Return the integer in a file (decimal, or hexadecimal after 0x)."""
        text = self.text(path)
        try:
            return None if text is None or len(text) > 32 else int(text, 0)
        except ValueError:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, ``zone2`` before ``zone10``; none if it is not there."""
        if self._leads_out(folder):
            return []
        try:
            with os.scandir(self.root / folder) as entries:
                found = [entry.name for _, entry in zip(range(MAX_NAMES), entries, strict=False)]
        except OSError:
            return []
        return sorted(found, key=_natural)

    def has(self, path: str) -> bool:
        """Return whether there is such a file or folder."""
        if self._leads_out(path) or not (self.root / path).exists():
            return False
        self.present.add(path)
        return True

    def _leads_out(self, path: str) -> bool:
        """Return whether a link in a copied tree would read the machine that it lies on."""
        real = os.path.realpath(self.root / path)
        return os.path.commonpath([self._real, real]) != self._real

    def _bytes(self, path: str) -> bytes | None:
        """Read without Python's buffers, which choke on the EAGAIN of a powered-off sensor."""
        if self._leads_out(path):
            self.unread[path] = "leads out of the tree"
            return None
        try:
            file = os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return _read(file)
            finally:
                os.close(file)
        except OSError as error:
            if error.errno not in _ABSENT:
                self.unread[path] = error.strerror or str(error)
            return None


def _read(file: int) -> bytes:
    data = b""
    while len(data) < MAX_BYTES and (more := os.read(file, MAX_BYTES - len(data))):
        data += more
    return data


def _natural(name: str) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]
