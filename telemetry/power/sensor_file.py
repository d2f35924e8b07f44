"""A kernel's file that says one short thing, kept open and read again and again.

The kernel makes up such a file's text anew whenever it is read from its beginning (Linux,
Documentation/filesystems/sysfs.rst: "pread(2) with an offset of '0'"), so it need not be opened
each time. When its driver goes, the open file answers ENODEV for ever, even if the driver comes
back: then it is opened again by its path.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

_MAX_BYTES = 64
_NUMBER = re.compile(rb"-?[0-9]{1,19}")


class SensorFile:
    """One file of /sys, below a root that no link leads out of; closed when it fails.

    A plain file, as in a copied tree, is opened for each reading: it may have been replaced.
    ``is_gone``: the last time it could not even be opened, or its driver had gone.
    """

    def __init__(self, root: Path, path: str) -> None:
        self._root = os.path.realpath(root)
        self._path = root / path
        self._file: int | None = None
        self.is_gone = False

    def number(self) -> int | None:
        """Return the integer in it now; None: it cannot be read, or says something else."""
        text = self._read()
        return int(text) if text is not None and _NUMBER.fullmatch(text) else None

    def text(self) -> str | None:
        """Return its text now, at most 64 bytes; None: it cannot be read."""
        text = self._read()
        return None if text is None else text.decode("utf-8", "replace")

    def close(self) -> None:
        """Close it; the next reading opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> bytes | None:
        try:
            text = self._opened() if self._file is None else os.pread(self._file, _MAX_BYTES, 0)
        except OSError as error:  # EIO, ENODATA, EAGAIN: the channel fails
            self.is_gone = self.is_gone or error.errno == errno.ENODEV
            self.close()
            return None
        return text.strip(b"\0 \t\r\n")

    def _opened(self) -> bytes:
        """Open it and return its text; it stays open if the kernel makes its text."""
        self.is_gone = True
        if os.path.commonpath([self._root, os.path.realpath(self._path)]) != self._root:
            return b""  # a link in a copied tree would read the machine that it lies on
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self.is_gone = False
        text = os.pread(self._file, _MAX_BYTES, 0)
        if len(text) in (os.fstat(self._file).st_size, _MAX_BYTES):  # sysfs says 4096, procfs 0
            self.close()
        return text


def product(files: Iterable[SensorFile]) -> int | None:
    """Return what the numbers in these files multiply to; None: one cannot be read."""
    found = 1
    for file in files:
        number = file.number()
        if number is None:
            return None
        found *= number
    return found
