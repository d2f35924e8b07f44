"""The file ``filters_off.json`` of the state directory: which filters have switched themselves off.

A filter that has broken the bundle's word would have to err anew at each start. So that it is off
is written at once, and holds for the stream, that very bundle and that filter: another version
begins afresh, and so does everything where the file is removed. What cannot be read, or is of
another version, costs what is in it: those filters are on again until they are found out.
"""

from __future__ import annotations

import logging
import stat
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ...models.errors import DataError
from ...telemetry.whole_file import write_whole
from ..logs import rarely

_log = logging.getLogger(__name__)

FILE = "filters_off.json"
_VERSION = 1
_MOST = 256  # filters, those switched off last; beyond that they are forgotten
_MOST_BYTES = 1 << 20


class Off(Struct, frozen=True, kw_only=True):
    """A filter of a stream, by its name and its bundle's digest, that is off since ``at_s``."""

    stream: str
    bundle: str
    filter: str
    why: Annotated[str, Meta(max_length=1024)]
    at_s: Annotated[float, Meta(ge=0, le=1e11)]

    @property
    def since(self) -> str:
        """When that was, for people: by the device's own clock, UTC."""
        return datetime.fromtimestamp(self.at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class _File(Struct, frozen=True):
    v: int
    off: list[Off]


class _Head(Struct, frozen=True):
    v: int


class KeptOff:
    """Keeps which filters are off in a file of mode 0600; all of it is for one thread."""

    def __init__(self, file: Path, *, unix_s: Callable[[], float] = time.time) -> None:
        self._file = file
        self._unix_s = unix_s
        self._counts = Counter[str]()
        self._off: dict[tuple[str, str, str], Off] = {}
        try:
            self._off = {_key(one): one for one in read_off(file)}
        except DataError as error:
            self._counts["filters_off_refused"] += 1
            _log.warning("%s; filters that were off are on again", error)

    def counters(self) -> dict[str, int]:
        """Return how often the file was refused, and could not be written."""
        return dict(self._counts)

    def find(self, stream: str, *, bundle: str, name: str) -> Off | None:
        """Return since when and why a filter is off; None: it is on."""
        return self._off.get((stream, bundle, name))

    def keep(self, stream: str, bundle: str, name: str, why: str) -> None:
        """Write that a filter is off; a disk that does not take it is counted."""
        at_s = max(0.0, self._unix_s())
        one = Off(stream=stream, bundle=bundle, filter=name, why=why, at_s=at_s)
        self._off.pop(_key(one), None)
        self._off[_key(one)] = one
        self._off = dict(list(self._off.items())[-_MOST:])
        try:
            write_whole(self._file, msgspec.json.encode(_File(_VERSION, list(self._off.values()))))
        except OSError as error:
            self._counts["filters_off_unwritten"] += 1
            times = self._counts["filters_off_unwritten"]
            _log.log(rarely(times), "%s: cannot be written: %s", self._file, error.strerror)


def read_off(file: Path) -> list[Off]:
    """Return which filters a file says are off, in the order in which they were switched off.

    Raises:
        DataError: it cannot be read, or is of another version.
    """
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError("is no file", where=str(file))
        if found.st_size > _MOST_BYTES:
            raise DataError("is too large", where=str(file))
        data = file.read_bytes()
        if (version := msgspec.json.decode(data, type=_Head).v) != _VERSION:
            raise DataError(f"is of version {version}, not {_VERSION}", where=str(file))
        return msgspec.json.decode(data, type=_File).off
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from error


def _key(one: Off) -> tuple[str, str, str]:
    return one.stream, one.bundle, one.filter
