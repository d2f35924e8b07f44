"""The folder ``filters`` of the state directory: what reuse filters know, over restarts.

A file a stream, written when its run ends, and not before: a cache is large for a card, and one
that is lost costs a few runs of the model and no answer. Its name is the stream's. It begins with
the SHA-256 of the rest, which is MessagePack. What cannot be read, is damaged, or is of another
bundle costs what was known, and the stream begins with an empty cache.
"""

from __future__ import annotations

import hashlib
import logging
import math
import stat
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from ...models.errors import DataError
from ...telemetry.whole_file import write_whole
from ..logs import rarely
from .key_cache import Contents, KeyCache

_log = logging.getLogger(__name__)

FOLDER = "filters"
_VERSION = 1
_CHECK_BYTES = 32
_BESIDE = 2  # times the capacity: more than any cache of that takes in a file
_SPARE_BYTES = 4096
_LONGEST_S = 1e8


class _Head(Struct, frozen=True):
    v: int


class _File(Struct, frozen=True, kw_only=True):
    """A cache ``of`` that filter of that bundle, as it was ``at_s`` (Unix time)."""

    v: int
    of: str
    at_s: float
    cache: Contents


class KeptCaches:
    """Keeps what reuse filters know in files of mode 0600, below ``folder``.

    How long a device was off it tells by its own clock, ``unix_s``: a cache whose keys age is
    refused where that clock is behind the file.
    """

    def __init__(self, folder: Path, *, unix_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._unix_s = unix_s
        self._counts = Counter[str]()

    def counters(self) -> dict[str, int]:
        """Return how many caches were refused, and could not be written."""
        return dict(self._counts)

    def read(self, stream: str, cache: KeyCache, *, of: str) -> None:
        """Let an empty ``cache`` know what was kept of the stream's filter ``of`` that name."""
        file = self._file(stream)
        try:
            found = _read(file, most_bytes=cache.capacity_bytes * _BESIDE + _SPARE_BYTES)
            self._restore(found, cache, of=of)
        except FileNotFoundError:
            return
        except (OSError, DataError, msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            self._counts["filter_caches_refused"] += 1
            _log.warning("%s: %s; the cache begins empty", file, error)

    def write(self, stream: str, cache: KeyCache, *, of: str) -> None:
        """Keep what ``cache`` holds; a disk that does not take it is counted."""
        kept = _File(v=_VERSION, of=of, at_s=self._unix_s(), cache=cache.contents())
        data = msgspec.msgpack.encode(kept)
        try:
            write_whole(self._file(stream), hashlib.sha256(data).digest() + data)
        except OSError as error:
            self._counts["filter_caches_unwritten"] += 1
            times = self._counts["filter_caches_unwritten"]
            _log.log(rarely(times), "%s: cannot be written: %s", self._file(stream), error.strerror)

    def _restore(self, found: _File, cache: KeyCache, *, of: str) -> None:
        if found.of != of:
            raise DataError("is of another bundle or filter")
        if not math.isfinite(found.at_s):
            raise DataError("is of no time")
        away_s = self._unix_s() - found.at_s
        if not 0 <= away_s < _LONGEST_S and cache.ages:
            raise DataError("is of a time to come, so nobody knows how old its keys are")
        cache.restore(found.cache, away_ns=int(max(0.0, min(away_s, _LONGEST_S)) * 1e9))

    def _file(self, stream: str) -> Path:
        return self._folder / f"{stream}.cache"


def _read(file: Path, *, most_bytes: int) -> _File:
    """Return what a file holds, once it has been found whole.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is too large, damaged, or of another version.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError("is no file")
    if status.st_size > most_bytes:
        raise DataError(f"is too large: {status.st_size} bytes, {most_bytes} at most")
    data = file.read_bytes()
    check, rest = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
    if hashlib.sha256(rest).digest() != check:
        raise DataError("is damaged: its checksum is another")
    if (version := msgspec.msgpack.decode(rest, type=_Head).v) != _VERSION:
        raise DataError(f"is of version {version}, not {_VERSION}")
    return msgspec.msgpack.decode(rest, type=_File)
