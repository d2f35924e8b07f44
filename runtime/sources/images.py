"""Pictures that others put into a folder."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from ...models.errors import DataError, SourceError
from ...telemetry.clock import Clock, boottime_ns
from .folder_look import Look, Stamp, stamp_of
from .options import ImagesSource
from .pictures import check_region, cut, decode_picture, need_pillow
from .source import Captured
from .watching import Arrivals, need_watchdog, watch

_log = logging.getLogger(__name__)

_WAIT_S = 0.25
_MARGIN_NS = 2_000_000_000  # by which a file's own time may be before that of hearing of it
_MAX_BYTES = 1 << 26
_BATCH = 4096  # names that are kept
_PASSED_OVER = 8  # of another suffix, and none of ours: then it is told
_SEEN = 1 << 14  # files that could come twice: by a look at the folder, and by an event
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ImagesReader:
    """Reads each picture that comes into a folder, once, in the order they come.

    A file that is being written to is not read: it counts when it is closed or moved there.
    Only those that are there already give no such sign: of them one that has changed within the
    last half second is read when it has stood still as long; should it be cut short even so, it
    fails, and is read once it is closed. Links, pipes and devices are refused.

    The memory is bounded: where more names come than are kept, the folder is looked through
    for what has changed since. That, and what came while the folder was away, is read in the
    order of the files' times of change.

    Raises:
        ConfigError: the region is no part of a picture.
        MissingExtraError: Pillow or watchdog is not installed.
    """

    recorder = None

    def __init__(
        self, options: ImagesSource, *, base: Path, clock: Clock = boottime_ns, batch: int = _BATCH
    ) -> None:
        need_pillow()
        need_watchdog()
        check_region(options.region, where="source.region")
        self._options = options
        self._folder = base / options.path
        self._suffixes = tuple(suffix.lower() for suffix in options.suffixes)
        self._clock = clock
        self._batch = batch
        self._seen: OrderedDict[Stamp, None] = OrderedDict()
        self._since_ns = time.time_ns()  # what came before was read, or is to be left alone
        self._tried = self._begun = False
        self._passed_over = 0  # files of other suffixes that came; -1: that does not matter
        self._look: Look | None = None
        self._fd: int | None = None
        self._end: Callable[[], None] | None = None

    def open(self) -> None:
        """Begin to watch the folder, and to look at what is there.

        Raises:
            SourceError: it is not there, or cannot be read or watched.
        """
        first, self._tried = not self._tried, True
        self._fd = self._open_folder()
        poll_s = self._options.poll_s
        settle_s = 0.0 if poll_s is None else 1.5 * poll_s  # a further poll has seen no change
        self._arrivals = Arrivals(settle_s=settle_s, most=self._batch)
        self._end = watch(self._folder, self._told, poll_s=poll_s)
        if self._options.existing and not self._begun:
            self._look = self._looking(None)
        elif not first:
            self._look = self._looking(self._since_ns)
        self._begun = True

    def read(self) -> Sequence[Captured]:
        """Return the next picture, or none within a quarter of a second.

        Raises:
            DataError: a file is no picture.
            SourceError: the folder has gone away.
        """
        folder = self._still_there()
        found = self._next()
        if found is None:
            return ()
        name, expected = found
        data = self._content(folder, name, expected)
        if data is None:
            return ()
        taken_at_ns, how = self._clock(), self._options
        picture = decode_picture(data, max_pixels=how.max_pixels, where=self._shown(name))
        if how.remove:
            self._remove(folder, name)
        return (Captured(cut(picture, how.region), taken_at_ns, {"file": _shown(name)}),)

    def close(self) -> None:
        """Watch no longer; what was read already is remembered."""
        if self._end is not None:
            self._end()
            self._end = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _told(self, name: str) -> None:
        if self._is_wanted(name):
            self._arrivals.add(name)
        elif self._passed_over >= 0:
            self._passed_over += 1
            if self._passed_over == _PASSED_OVER:
                self._tell_of_others(name)

    def _is_wanted(self, name: str) -> bool:
        wanted = name.lower().endswith(self._suffixes)
        if wanted:
            self._passed_over = -1
        return wanted

    def _tell_of_others(self, name: str) -> None:
        """Log once that what is in the folder, or comes there, is not what is looked for."""
        self._passed_over = -1
        suffixes = " ".join(self._suffixes)
        shown = self._shown(name)
        _log.warning("%s is passed over: the source's suffixes are %s", shown, suffixes)

    def _looking(self, since_ns: int | None) -> Look:
        folder = self._still_there()
        return Look(folder, wanted=self._is_wanted, since_ns=since_ns, batch=self._batch)

    def _open_folder(self) -> int:
        try:
            return os.open(self._folder, _FOLDER)
        except OSError as error:
            raise SourceError(
                f"cannot be opened: {error.strerror}",
                where=str(self._folder),
                hint="make this folder, and let this user read it",
            ) from error

    def _still_there(self) -> int:
        """Return the open folder, if it still lies where it did."""
        if self._fd is None:
            raise SourceError("is not open", where=str(self._folder))
        try:
            same = os.path.samestat(self._folder.stat(), os.fstat(self._fd))
        except OSError as error:
            raise SourceError(f"has gone: {error.strerror}", where=str(self._folder)) from error
        if not same:
            raise SourceError("is another folder now", where=str(self._folder))
        return self._fd

    def _next(self) -> tuple[str, Stamp | None] | None:
        """Return the next file, and how a look at the folder has found it."""
        if self._look is not None:
            try:
                found = self._look.take()
            except OSError as error:
                where = str(self._folder)
                raise SourceError(f"cannot be read: {error.strerror}", where=where) from error
            if found is not None:
                return found.name, found.stamp
            if not self._look.ended:
                time.sleep(_WAIT_S)
                return None
            self._look = None
            if self._passed_over >= 0:
                other = other_file(self._folder, self._suffixes)
                if other is not None:
                    self._tell_of_others(other)
        return self._arrived()

    def _arrived(self) -> tuple[str, None] | None:
        if self._arrivals.catch_up():
            self._look = self._looking(self._since_ns)
            return None
        arrival = self._arrivals.take(wait_s=_WAIT_S)
        if arrival is not None:
            self._since_ns = arrival.at_ns - _MARGIN_NS
            return arrival.name, None
        if self._arrivals.empty and not self._arrivals.missed:
            self._since_ns = time.time_ns() - _MARGIN_NS
        return None

    def _content(self, folder: int, name: str, expected: Stamp | None) -> bytes | None:
        """Return a file's bytes; None: it is gone, was read, or is being written to again.

        Raises:
            DataError: it is none to be read.
        """
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise self._refused(name, "is a link, a folder, a pipe or a device")
            stamp = stamp_of(status)
            if stamp in self._seen or expected not in (None, stamp):
                return None
            data, after = _read_file(folder, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            hint = "the device's user must be able to read it"
            what = f"cannot be read: {error.strerror}"
            raise self._refused(name, what, hint=hint) from error
        if after != stamp:
            return None
        self._remember(stamp)
        if not 0 < stamp.size <= _MAX_BYTES:
            raise self._refused(name, f"has {stamp.size} bytes: 1 to {_MAX_BYTES} can be read")
        return data

    def _remember(self, stamp: Stamp) -> None:
        self._seen[stamp] = None
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)

    def _remove(self, folder: int, name: str) -> None:
        try:
            stamp = stamp_of(os.stat(name, dir_fd=folder, follow_symlinks=False))
            if stamp in self._seen:  # and not another that came in its place
                os.unlink(name, dir_fd=folder)
                del self._seen[stamp]
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("%s: cannot be removed: %s", self._shown(name), error.strerror)

    def _refused(self, name: str, what: str, *, hint: str | None = None) -> DataError:
        return DataError(what, where=self._shown(name), hint=hint)

    def _shown(self, name: str) -> str:
        return f"{self._folder}/{_shown(name)}"


def other_file(folder: Path, suffixes: Sequence[str]) -> str | None:
    """Return the name of a file that ends in none of the suffixes; None: none is seen."""
    ours = tuple(suffix.lower() for suffix in suffixes)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".")  # what is still being written, often
                if not hidden and entry.is_file() and not entry.name.lower().endswith(ours):
                    return entry.name
    except OSError:
        return None  # reading it will tell
    return None


def _read_file(folder: int, name: str) -> tuple[bytes, Stamp]:
    """Return at most a byte more than may be, and how the file was after that."""
    descriptor = os.open(name, _FILE, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        data = file.read(_MAX_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
        return data, stamp_of(os.fstat(descriptor))


def _shown(name: str) -> str:
    """Return a file's name as it can be written everywhere: any bytes may be in it."""
    text = os.fsencode(name).decode(errors="replace")
    return text if text.isprintable() else ascii(text)
